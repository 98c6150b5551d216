"""Prints a config in full and checks its backbone, or copies it to edit it.

Examples:
    config mask_rcnn_xcit_s12              prints
    config mask_rcnn_xcit_s12 --copy .     copies the config, and the files that it inherits from, to ./configs
    config --backbone small_12_p16 mask2former_r50_8xb2-lsj-50e_coco --copy .
                                           writes a config of MMDetection with an XCiT in it
"""

from __future__ import annotations

import argparse
from pathlib import Path

from xcit_dense.cli.installed_configs import base_of, find_any_config, is_shipped
from xcit_dense.cli.options import (
    CONFIG_HELP,
    add_config_options,
    add_data_root,
    add_words,
    read_config_options,
    start_mm,
)
from xcit_dense.cli.positionals import read_config_argument
from xcit_dense.cli.shipped_configs import copy_config
from xcit_dense.errors import INSTALL_MM, MissingLibraryError, UserError
from xcit_dense.utils.files import atomic_write
from xcit_dense.variants import get_variant
from xcit_dense.weights.zoo import expand

SUMMARY = "print a config in full, or copy it to edit it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this subcommand."""
    add_words(parser, "CONFIG", CONFIG_HELP)
    add_data_root(parser)
    add_config_options(parser)
    parser.add_argument(
        "--copy", type=Path, metavar="DIR", help="copy the config, and the files that it inherits from, to DIR"
    )
    parser.add_argument(
        "--backbone",
        metavar="VARIANT",
        help="put an XCiT in the place of the backbone; CONFIG may then be the name of a config of the installed "
        "MMDetection or MMSegmentation",
    )


def run(args: argparse.Namespace) -> None:
    """Prints or copies the config."""
    if args.backbone is not None:
        get_variant(args.backbone)
        if len(args.words) > 1:
            raise UserError(f"{' '.join(args.words[1:])} is more than this command takes; leave it out.")
        path = find_any_config(args.words[0])
    else:
        path = read_config_argument(args.words).config
    if args.copy is None:
        show_config(path, args.cfg_options, args.data_root, args.backbone)
        return
    if args.cfg_options or args.data_root:
        raise UserError("--copy copies files as they are; leave out --cfg-options and --data-root, and edit the copy.")
    if args.backbone is not None:
        copies = [write_replaced(path, args.backbone, args.copy)]
    else:
        copies = copy_config(path, args.copy)
    print(*copies, sep="\n")
    print(f"\nEdit {copies[0]}, then train: xcit-dense train {copies[0]}")


def write_replaced(path: Path, variant: str, directory: Path) -> Path:
    """Writes a config that inherits from another config, and has an XCiT in the place of the backbone.

    Args:
        path: The config to inherit from. A shipped config is copied to the directory first.
        variant: A name in :data:`xcit_dense.VARIANTS`.
        directory: Where to write.

    Returns:
        The path of the written config.

    Raises:
        UserError: The backbone cannot be replaced, or a file with other content is in the way.
        MissingLibraryError: MMEngine is not installed.
    """
    start_mm_or_explain()
    from xcit_dense.mm.config.checks import check_config
    from xcit_dense.mm.config.load import load_config
    from xcit_dense.mm.config.swap import replace_backbone
    from xcit_dense.mm.config.swap.write import add_import, write_difference

    before = load_config(path, import_modules=False)  # the old backbone may need a missing package
    after = replace_backbone(before, variant)
    add_import(after)
    check_config(after, loaders=())
    if is_shipped(path):
        path = copy_config(path, directory)[0]
        directory = path.parent
    leaf = directory / f"{path.stem}_{expand('xcit_{short}', variant.removeprefix('xcit_'))}.py"
    text = write_difference(base_of(path, directory), before, after)
    if leaf.exists() and leaf.read_text(encoding="utf-8") != text:
        raise UserError(f"{leaf} exists and has other content; name another directory after --copy.")
    with atomic_write(leaf) as part:
        part.write_text(text, encoding="utf-8")
    return leaf


def show_config(path: Path, options: list[str], data_root: str | None = None, variant: str | None = None) -> None:
    """Prints a config in full, then checks its backbone, for which no data is needed.

    Args:
        path: The config's file.
        options: Values that replace the config's, each ``KEY=VALUE``.
        data_root: Directory that every data set is to use.
        variant: The XCiT to put in the place of the backbone. None keeps the backbone.

    Raises:
        UserError: The config cannot be read, or its backbone is not possible.
        MissingLibraryError: MMEngine is not installed.
    """
    start_mm_or_explain()
    from xcit_dense.mm.config.checks import check_config
    from xcit_dense.mm.config.load import load_config
    from xcit_dense.mm.config.swap import replace_backbone
    from xcit_dense.mm.config.swap.write import add_import

    config = load_config(path, read_config_options(options), data_root, import_modules=variant is None)
    if variant is not None:
        config = replace_backbone(config, variant)
        add_import(config)
    print(config.pretty_text.rstrip(), flush=True)
    check_config(config, loaders=())


def start_mm_or_explain() -> None:
    """Prepares the MM libraries.

    Raises:
        MissingLibraryError: MMEngine is not installed.
    """
    try:
        import mmengine.config  # noqa: F401
    except ImportError as error:
        raise MissingLibraryError(f"Configs are read with MMEngine ({error}); write {INSTALL_MM}.") from error
    start_mm()
