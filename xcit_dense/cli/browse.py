"""Draws what a training sees, after augmentation, with the ground truth over each image.

DIR receives a drawing of each image and three overviews: contact_sheet.jpg has all drawings in a grid, classes.png has
the number of objects or the share of pixels of each class and split, sizes.png has the sizes of objects in pixels next
to the strides of the levels.

Examples:
    browse CONFIG --out DIR

DIR must be empty or not exist.
"""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import islice
from pathlib import Path

from xcit_dense.cli.options import (
    CONFIG_HELP,
    add_bands,
    add_config_options,
    add_crowds,
    add_data_root,
    add_own_data,
    add_verbose,
    add_words,
    band_options,
    read_config_options,
    read_own_data,
    start_mm,
)
from xcit_dense.cli.positionals import read_config_argument
from xcit_dense.errors import UserError

SUMMARY = "draw what a training sees"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this subcommand."""
    add_words(parser, "CONFIG", CONFIG_HELP, required="--out DIR")
    add_config_options(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument("--number", type=int, default=16, metavar="N", help="how many images; default 16")
    parser.add_argument("--seed", type=int, default=0, help="of order and augmentation; default 0")
    add_data_root(parser)
    add_crowds(parser)
    add_own_data(parser, has_seed=True)
    add_bands(parser, trains=True)
    add_verbose(parser)


def run(args: argparse.Namespace) -> None:
    """Draws."""
    if args.number < 1:
        raise UserError(f"--number {args.number} is not possible; write 1 or more.")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise UserError(f"--out {args.out} is not an empty directory; name another.")
    positionals = read_config_argument(args.words)
    start_mm()

    from xcit_dense.media.images import write_image
    from xcit_dense.mm.config.checks import check_config
    from xcit_dense.mm.config.load import load_config
    from xcit_dense.mm.config.repaired import use_repaired
    from xcit_dense.mm.config.splits import LOADERS
    from xcit_dense.mm.inference.browse import TrainingData
    from xcit_dense.mm.inference.measure import count_classes, measure_sizes
    from xcit_dense.models.pyramid import STRIDES
    from xcit_dense.visualization.charts import draw_class_counts, draw_sizes
    from xcit_dense.visualization.contact_sheet import Tile, make_contact_sheet

    options = read_config_options(args.cfg_options)
    own = {**read_own_data(args), **band_options(args)}
    config = load_config(positionals.config, options, args.data_root, **own)
    if args.crowd_as_objects:
        config.crowd_as_objects = True
    for line in use_repaired(config, LOADERS, config.get("work_dir") or Path("work_dirs", positionals.config.stem)):
        print(line, flush=True)
    check_config(config, ("train_dataloader",), weights=False)
    data = TrainingData(config, args.seed, args.verbose)
    tiles = []
    labels: Counter[int] = Counter()
    for number, view in enumerate(islice(data, args.number), start=1):
        path = args.out / f"{number:04d}_{Path(view.name).stem}.jpg"
        write_image(path, view.truth.draw(view.image, data.classes, data.palette))
        print(path, flush=True)
        tiles.append(Tile(view.truth.draw_tile(view.image, data.classes, data.palette), view.name))
        labels.update(view.truth.labels().ravel().tolist())
    present = [label for label, _ in labels.most_common() if 0 <= label < len(data.classes)]
    legend = [(data.classes[label], data.palette[label]) for label in present]
    title = f"{len(tiles)} images as training sees them, after augmentation"
    sheet = args.out / "contact_sheet.jpg"
    write_image(sheet, make_contact_sheet(tiles, title, legend))
    print(sheet, flush=True)

    found = count_classes(config, data.dataset, args.verbose)
    print(*found.notes, sep="\n", end="\n" * bool(found.notes))
    draw_class_counts(args.out / "classes.png", found.counts, found.unit, found.title)
    print(args.out / "classes.png", flush=True)
    measured = measure_sizes(config, data.dataset, args.seed)
    draw_sizes(args.out / "sizes.png", measured.sizes, STRIDES, measured.unit, measured.title)
    print(args.out / "sizes.png", flush=True)
