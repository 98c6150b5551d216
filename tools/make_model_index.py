"""Writes the tables of published weights from xcit_dense/weights/zoo.py: model index, model zoo, README table."""

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from xcit_dense import VARIANTS
from xcit_dense.cli.exit import exit_with_sentence
from xcit_dense.errors import UserError
from xcit_dense.weights.zoo import FAMILIES, SCHEME, TIMM, ZOO, Family, Weights, expand

ROOT = Path(__file__).resolve().parents[1]
MARKERS = "<!-- model table -->\n", "<!-- end of model table -->\n"

BY = "Written by tools/make_model_index.py from xcit_dense/weights/zoo.py"

MODELS = {"coco": "Mask R-CNN", "sem_fpn": "Semantic FPN", "upernet": "UperNet"}
"""Names of the models around the backbone, by a part of the name of their weights."""

DATASETS = {"detection": "COCO", "segmentation": "ADE20K"}
"""The training data of a task. The keys are also the directories of the configs."""


@exit_with_sentence
def main() -> None:
    """Reads the command line and writes the files, or compares them with what would be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if a file is out of step")
    arguments = parser.parse_args()

    files = make_files()
    stale = [name for name, text in files.items() if read(ROOT / name) != text]
    if arguments.check:
        if stale:
            raise UserError(
                f"Out of step with xcit_dense/weights/zoo.py: {', '.join(stale)}; run python tools/make_model_index.py."
            )
        return
    for name in stale:
        (ROOT / name).write_text(files[name], encoding="utf-8")
    print(f"Written: {', '.join(stale) or 'nothing, all are up to date'}.")


def make_files() -> dict[str, str]:
    """The expected content of each generated file, by its path from the project's root.

    Raises:
        UserError: The README does not have the lines for the table.
    """
    metafiles = {f"configs/{task}/metafile.yml": metafile(task) for task in DATASETS}
    readme = read(ROOT / "README.md")
    start, end = MARKERS
    if not re.search(f"{start}.*{end}", readme, re.DOTALL):
        raise UserError(f"README.md has no place for the table; write lines {start.strip()} and {end.strip()} into it.")
    before, _, after = readme.partition(start)
    return {
        "model-index.yml": dump({"Import": list(metafiles)}),
        **metafiles,
        "docs/model_zoo.md": model_zoo(),
        "README.md": f"{before}{start}{variant_table()}{end}{after.partition(end)[2]}",
    }


def read(path: Path) -> str:
    """The text of a file, or an empty text if the file is missing."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


# Model index, in the layout of OpenMMLab


def metafile(task: str) -> str:
    """The model index of one directory of configs."""
    families = [family for family in FAMILIES if family.task == task]
    collections = [
        {
            "Name": collection(family),
            "Metadata": {
                "Training Data": DATASETS[task],
                "Training Techniques": ["AdamW"],
                "Architecture": ["XCiT", model_name(family)],
            },
            "Paper": {"URL": "https://arxiv.org/abs/2106.09681", "Title": "XCiT: Cross-Covariance Image Transformers"},
            "Code": {"URL": "https://github.com/facebookresearch/xcit"},
        }
        for family in families
    ]
    models = [index_entry(family, weights) for family in families for weights in members(family)]
    return dump({"Collections": collections, "Models": models})


def index_entry(family: Family, weights: Weights) -> dict[str, Any]:
    """The entry of one complete model in the model index."""
    dataset = DATASETS[weights.task]
    labels = {"box AP": "Object Detection", "mask AP": "Instance Segmentation", "mIoU": "Semantic Segmentation"}
    return {
        "Name": Path(str(weights.config)).stem,
        "In Collection": collection(family),
        "Config": weights.config,
        "Metadata": {
            "Training Data": dataset,
            "Batch Size": 16,
            **training_length(str(weights.schedule)),
            "Architecture": ["XCiT", model_name(family)],
        },
        "Results": [
            {"Task": labels[metric], "Dataset": dataset, "Metrics": {metric: value}}
            for metric, value in weights.metrics.items()
        ],
        "Weights": weights.url,
    }


def training_length(schedule: str) -> dict[str, int]:
    """A schedule in numbers: ``3x`` is three times 12 epochs, ``80k`` 80 000 iterations."""
    number = int(schedule[:-1])
    return {"Epochs": 12 * number} if schedule.endswith("x") else {"Iterations": 1000 * number}


def collection(family: Family) -> str:
    """Name of a family's collection in the model index."""
    return f"{model_name(family)} with XCiT"


def model_name(family: Family) -> str:
    """The name of the model around the backbone."""
    return next(name for part, name in MODELS.items() if part in family.name)


def dump(content: dict[str, Any]) -> str:
    """YAML, in the order given."""
    return f"# {BY}.\n" + yaml.safe_dump(content, sort_keys=False, width=1000)


# Tables for people


def model_zoo() -> str:
    """docs/model_zoo.md: every weight."""
    classifiers = [family for family in FAMILIES if family.task == "classification"]
    (dino,) = (family for family in FAMILIES if family.task == "self-supervision")
    text = f"""# Model zoo

<!-- {BY}; edit these two files. -->

The {len(ZOO)} weights that the authors of XCiT published. The figures are those that the authors published, in percent.
We did not measure them.

Write a name in place of a checkpoint: on the command line, in Python
(`load_weights(backbone, "{SCHEME}small_12_p16_384_dist")`), or in a config's `init_cfg` and `load_from`. On the command
line and in Python you can leave out `{SCHEME}`. `xcit-dense zoo` searches names, and
`xcit_dense.list_weights("coco/*")` lists them, also by `variant=` and `task=`.

A file is downloaded at its first use to the directory `checkpoints` of torch.hub: `$TORCH_HOME/hub/checkpoints`, by
default `~/.cache/torch/hub/checkpoints`. On a machine without a network, put the file there yourself. Its name is the
last part of its address. The error of a failed download gives the exact path.

timm's copies of the classifiers load by their names in timm: `{TIMM}xcit_small_12_p16_384.fb_dist_in1k`. They come
from the Hugging Face hub, or from the mirror in `HF_ENDPOINT`, and are kept in the cache of the hub (`HF_HOME`).

## ImageNet-1k classifiers

`224` and `384` are the training resolution in pixels. `dist` marks weights distilled from a convolutional teacher.

{weights_table(classifiers)}
## DINO, self-supervised on ImageNet-1k

The figure is the accuracy of a linear classifier on the frozen features.

{weights_table([dino])}"""
    for family in FAMILIES:
        if family.config:
            ((unit, number),) = training_length(str(family.schedule)).items()
            others = (expand("`{short}`", variant) for variant in VARIANTS if not weights_of(family, variant))
            text += f"""
## {model_name(family)} on {DATASETS[family.task]}

Complete models, trained for {number} {unit.lower()}. Other variants have no published weights. They have configs with
the recipe of the nearest variant: {", ".join(others)}.

{weights_table([family])}"""
    return text


def weights_table(families: Sequence[Family]) -> str:
    """One row for each weight of the families, variant by variant."""
    metrics = families[0].metrics
    config = ["Config"] if families[0].config else []
    rows = []
    for weights in sorted((weights for family in families for weights in members(family)), key=variant_order):
        file = Path(weights.config).name if weights.config else ""
        cells = [f"`{SCHEME}{weights.name}`", *map(str, weights.metrics.values())]
        rows.append([*cells, *([f"[{file}](../{weights.config})"] if file else []), f"<{weights.url}>"])
    return table(["Name", *metrics, *config, "Address"], rows)


def variant_table() -> str:
    """The README's table: a row for each variant."""
    (classifiers,) = (family for family in FAMILIES if family.name.endswith("_384_dist"))
    complete = [family for family in FAMILIES if family.config]
    heads = [f"{model_name(family)}, {' / '.join(family.metrics)}" for family in complete]
    rows = []
    for variant in VARIANTS:
        links = [
            f"[{figures(family, variant) or 'config'}]({expand(str(family.config), variant)})" for family in complete
        ]
        rows.append([f"`{variant}`", expand("`{short}`", variant), figures(classifiers, variant), *links])
    return "\n" + table(["Variant", "In configs", "ImageNet top-1 (`384_dist`)", *heads], rows) + "\n"


def figures(family: Family, variant: str) -> str:
    """The published figures of a variant, or an empty text."""
    weights = weights_of(family, variant)
    return " / ".join(map(str, weights.metrics.values())) if weights else ""


def weights_of(family: Family, variant: str) -> Weights | None:
    """A family's weights for a variant, if they were published."""
    return ZOO.get(expand(family.name, variant))


def members(family: Family) -> list[Weights]:
    """A family's weights, in the order of the variants."""
    return [weights for variant in VARIANTS if (weights := weights_of(family, variant))]


def variant_order(weights: Weights) -> int:
    """The position of the variant in the table of variants."""
    return list(VARIANTS).index(weights.variant)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
