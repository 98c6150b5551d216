"""Writes the tables of published weights from xcit_dense/weights/zoo.py: model index, model zoo, README table."""

import argparse
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import yaml

from xcit_dense import VARIANTS
from xcit_dense.cli.costs import AT_800_X_1344, cost_of
from xcit_dense.cli.exit import exit_with_sentence
from xcit_dense.errors import UserError
from xcit_dense.weights.zoo import FAMILIES, SCHEME, TIMM, ZOO, Family, Weights, expand

ROOT = Path(__file__).resolve().parents[1]
MARKERS = "<!-- model table -->\n", "<!-- end of model table -->\n"

BY = "Written by tools/make_model_index.py from xcit_dense/weights/zoo.py"

MODELS = {
    "cascade_mask_rcnn": "Cascade Mask R-CNN",
    "coco": "Mask R-CNN",
    "sem_fpn": "Semantic FPN",
    "upernet": "UperNet",
}
"""Names of the models around the backbone, by a part of the name of their weights."""

PAPERS = {
    "XCiT": ("2106.09681", "XCiT: Cross-Covariance Image Transformers", "facebookresearch/xcit"),
    "BEiT": ("2106.08254", "BEiT: BERT Pre-Training of Image Transformers", "microsoft/unilm"),
    "BEiTv2": (
        "2208.06366",
        "BEiT v2: Masked Image Modeling with Vector-Quantized Visual Tokenizers",
        "microsoft/unilm",
    ),
    "CaiT": ("2103.17239", "Going deeper with Image Transformers", "facebookresearch/deit"),
    "CoaT": ("2104.06399", "Co-Scale Conv-Attentional Image Transformers", "mlpc-ucsd/CoaT"),
}
"""Paper (its number on arXiv and its title) and repository of each architecture."""

COSTS = (
    "ade20k/upernet/small_12_p16",
    "ade20k/upernet/beit_base",
    "ade20k/upernet/beit_large",
    "coco/small_12_p16",
    "coco/mask_rcnn/coat_lite_small",
    "coco/mask_rcnn/coat_small",
    "coco/cascade_mask_rcnn/coat_small",
)
"""Complete models whose costs the model zoo compares."""

UNPUBLISHED = {
    "cait_xxs24_384": {"Mask R-CNN": "configs/detection/mask_rcnn_cait_xxs24.py"},
    "cait_s24_384": {
        "Semantic FPN": "configs/segmentation/sem_fpn_cait_s24.py",
        "UperNet": "configs/segmentation/upernet_cait_s24.py",
    },
    "vit_base_patch14_dinov2": {
        "Mask R-CNN": "configs/detection/mask_rcnn_dinov2_b.py",
        "UperNet": "configs/segmentation/upernet_dinov2_b.py",
    },
}
"""Configs without published figures, by the variant of TokenPyramid."""

OTHER_HEADS = {
    "Cascade Mask R-CNN": ("boxes and masks", "configs/detection/cascade_mask_rcnn_xcit_s12.py"),
    "Mask2Former": ("boxes and masks", "configs/detection/mask2former_xcit_s12.py"),
    "Mask2Former, panoptic": ("things and stuff", "configs/detection/mask2former_xcit_s12_panoptic.py"),
    "DINO": ("boxes", "configs/detection/dino_xcit_s12.py"),
    "RetinaNet": ("boxes", "configs/detection/retinanet_xcit_s12.py"),
    "RTMDet": ("boxes, in real time", "configs/detection/rtmdet_xcit_s12.py"),
    "Mask2Former, semantic": ("label maps", "configs/segmentation/mask2former_xcit_s12.py"),
    "SegFormer's head": ("label maps", "configs/segmentation/segformer_xcit_s12.py"),
    "DeepLabV3+": ("label maps", "configs/segmentation/deeplabv3plus_xcit_s12.py"),
    "FCN": ("label maps", "configs/segmentation/fcn_xcit_s12.py"),
}
"""Heads without published figures on XCiT: what they predict, and their config."""

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
        "README.md": f"{before}{start}{variant_table()}{backbone_table()}{head_table()}{end}{after.partition(end)[2]}",
    }


def read(path: Path) -> str:
    """The text of a file, or an empty text if the file is missing."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


# Model index, in the layout of OpenMMLab


def metafile(task: str) -> str:
    """The model index of one directory of configs."""
    families = [family for family in FAMILIES if family.task == task]
    models = [weights for family in families for weights in members(family)]
    models += [weights for weights in ZOO.values() if weights.task == task and weights.architecture != "XCiT"]
    collections = []
    for name, first in {collection(weights): weights for weights in reversed(models)}.items():
        number, title, repository = PAPERS[first.architecture]
        collections.append(
            {
                "Name": name,
                "Metadata": {
                    "Training Data": DATASETS[task],
                    "Training Techniques": ["AdamW"],
                    "Architecture": [first.architecture, model_name(first)],
                },
                "Paper": {"URL": f"https://arxiv.org/abs/{number}", "Title": title},
                "Code": {"URL": f"https://github.com/{repository}"},
            }
        )
    return dump({"Collections": collections[::-1], "Models": [index_entry(weights) for weights in models]})


def index_entry(weights: Weights) -> dict[str, Any]:
    """The entry of one complete model in the model index."""
    dataset = DATASETS[weights.task]
    labels = {"box AP": "Object Detection", "mask AP": "Instance Segmentation"}
    return {
        "Name": Path(str(weights.config)).stem,
        "In Collection": collection(weights),
        "Config": weights.config,
        "Metadata": {
            "Training Data": dataset,
            "Batch Size": 16,
            **training_length(str(weights.schedule)),
            "Architecture": [weights.architecture, model_name(weights)],
        },
        "Results": [
            {"Task": labels.get(metric, "Semantic Segmentation"), "Dataset": dataset, "Metrics": {metric: value}}
            for metric, value in weights.metrics.items()
        ],
        "Weights": weights.url,
    }


def training_length(schedule: str) -> dict[str, int]:
    """A schedule in numbers: ``3x`` is three times 12 epochs, ``80k`` 80 000 iterations."""
    number = int(schedule[:-1])
    return {"Epochs": 12 * number} if schedule.endswith("x") else {"Iterations": 1000 * number}


def collection(weights: Weights) -> str:
    """Name of the collection of a complete model in the model index."""
    return f"{model_name(weights)} with {weights.architecture}"


def model_name(family: Family | Weights) -> str:
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

The {len(ZOO)} weights that the authors of XCiT, BEiT, BEiT v2, CaiT and CoaT published. The figures are those that the
authors published, in percent. We did not measure them.

Write a name in place of a checkpoint: on the command line, in Python
(`load_weights(backbone, "{SCHEME}small_12_p16_384_dist")`), or in a config's `init_cfg` and `load_from`. On the command
line and in Python you can leave out `{SCHEME}`. `xcit-dense zoo` searches names, and
`xcit_dense.list_weights("coco/*")` lists them, also by `variant=`, `task=` and `backbone=`.

A file is downloaded at its first use to the directory `checkpoints` of torch.hub: `$TORCH_HOME/hub/checkpoints`, by
default `~/.cache/torch/hub/checkpoints`. On a machine without a network, put the file there yourself. Its name is the
last part of its address. The error of a failed download gives the exact path.

The authors of CoaT published the first digits of the SHA-256 of each file. A download with another SHA-256 is refused.

Pretrained models of timm load by their names in timm: `{TIMM}xcit_small_12_p16_384.fb_dist_in1k`, or
`{TIMM}vit_base_patch14_dinov2.lvd142m` for a `TokenPyramid`. They come from the Hugging Face hub, or from the mirror in
`HF_ENDPOINT`, and are kept in the cache of the hub (`HF_HOME`).

## ImageNet-1k classifiers

`224` and `384` are the training resolution in pixels. `dist` marks weights distilled from a convolutional teacher.

{weights_table(sorted((weights for family in classifiers for weights in members(family)), key=variant_order))}
## DINO, self-supervised on ImageNet-1k

The figure is the accuracy of a linear classifier on the frozen features.

{weights_table(members(dino))}"""
    for family in FAMILIES:
        if family.config:
            ((unit, number),) = training_length(str(family.schedule)).items()
            others = (expand("`{short}`", variant) for variant in VARIANTS if not weights_of(family, variant))
            text += f"""
## {model_name(family)} on {DATASETS[family.task]}

Complete models, trained for {number} {unit.lower()}. Other variants have no published weights. They have configs with
the recipe of the nearest variant: {", ".join(others)}.

{weights_table(members(family))}"""
    return text + other_heads() + other_backbones()


def other_heads() -> str:
    """The section of docs/model_zoo.md on heads without published figures."""
    rows = [[head, predicts, f"[{Path(config).stem}](../{config})"] for head, (predicts, config) in OTHER_HEADS.items()]
    return f"""
## Other heads

Nobody published figures or weights of XCiT with these heads. The configs take each head from MMDetection's or
MMSegmentation's own recipe, and start from a classifier. Each has a sibling `..._shapes` that learns the embedded data
([what they reach](training.md#other-heads)).

{table(["Head", "Predicts", "Config"], rows)}"""


def other_backbones() -> str:
    """The sections of docs/model_zoo.md on BEiT, CaiT and CoaT."""

    def of(*architectures: str, complete: bool) -> str:
        return weights_table(
            weights
            for weights in ZOO.values()
            if weights.architecture in architectures and bool(weights.config) == complete
        )

    return f"""
## BEiT and BEiT v2

`TokenPyramid("beit_base_patch16_224")` and `TokenPyramid("beitv2_large_patch16_224")` load these files. `pt` names the
data of the self-supervised training, and `ft` the data of the classification after it: ImageNet-1k, -21k or -22k. Files
without a figure have no published figure on ImageNet-1k.

{of("BEiT", "BEiTv2", complete=False)}
### UperNet on ADE20K

Complete models, trained for 160000 updates of 16 images. BEiT is trained and tested with windows of 640 pixels, BEiT v2
with windows of 512. `_1k` starts from weights that have not seen a label, the others from a classifier. The second
figure is that of images in six sizes, each of them mirrored too (`--tta`).

{of("BEiT", "BEiTv2", complete=True)}
## CaiT

`TokenPyramid("cait_s24_384")` loads these classifiers. The figures that the authors did not publish are missing. No
figures were published on COCO or ADE20K. `upernet_cait_s24`, `sem_fpn_cait_s24` and `mask_rcnn_cait_xxs24` are configs
with the recipe of XCiT.

{of("CaiT", complete=False)}
## CoaT

`CoaT("coat_small")` loads these files.

{of("CoaT", complete=False)}
### Mask R-CNN and Cascade Mask R-CNN on COCO

Complete models, trained for 36 epochs, or for 12 (`_1x`).

{of("CoaT", complete=True)}
## Other transformers of timm

`TokenPyramid` takes each plain transformer of timm by its name, and loads timm's weights by `{TIMM}NAME.TAG`.
`upernet_dinov2_b` and `mask_rcnn_dinov2_b` are configs with DINOv2. No figures were published for them.

## What the backbones cost

{costs_tables()}
Attention over all tokens grows with the square of the number of pixels. At 800 x 1344 pixels an image has 4,200 tokens
of 16 x 16 pixels, and the map of one head has 4,200 x 4,200 values: 67 MiB in fp32.

- XCiT and CoaT do not make such maps. Their cost grows linearly with the number of pixels.
- ViT, DeiT, DINO, DINOv2 and EVA02 call PyTorch's scaled dot product attention, which does not keep the maps.
- BEiT adds a bias for each pair of tokens. The complete bias of a block of BEiT-B (12 heads) would need 808 MiB in
  fp32.
- CaiT mixes the maps of all heads, which no fused kernel does. A complete map of CaiT-S24 (8 heads) would need 538 MiB
  in fp32 for each image, and a block has several such maps.

`TokenPyramid` bounds this memory. A map or a bias of more than 2^24 values (64 MiB in fp32) is computed in parts of
that size, and the backward pass computes the parts again. So the memory of a training grows linearly with the number of
tokens in large images. The time still grows with the square. `with_cp=True` recomputes complete blocks and saves the
other activations of a block too.
"""


def costs_tables() -> str:
    """Parameters and multiply-adds of some backbones, and of some complete models."""
    heads = ["Parameters, M", "Multiply-adds, G"]
    backbones = [[f"`{name}`", *map(str, astuple(cost))] for name, cost in AT_800_X_1344.items()]
    models = [[f"`{SCHEME}{name}`", *map(str, astuple(cost_of(ZOO[name])))] for name in COSTS]
    return f"""Backbones without pyramid, for an image of 800 x 1344 pixels:

{table(["Backbone", *heads], backbones)}
Complete models: detectors for 800 x 1344 pixels, segmentors for 512 x 512. `xcit-dense zoo` prints the costs of all
weights.

{table(["Weights", *heads], models)}"""


def weights_table(found: Iterable[Weights]) -> str:
    """One row for each of some weights, with all figures that one of them has."""
    found = list(found)
    metrics = list(dict.fromkeys(metric for weights in found for metric in weights.metrics))
    config = ["Config"] if found[0].config else []
    rows = []
    for weights in found:
        file = Path(weights.config).name if weights.config else ""
        cells = [f"`{SCHEME}{weights.name}`", *(str(weights.metrics.get(metric, "")) for metric in metrics)]
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


def backbone_table() -> str:
    """The README's second table: a row for each variant of another backbone that has a config."""
    heads = {"Mask R-CNN": "box AP / mask AP", "Cascade Mask R-CNN": "box AP / mask AP"}
    heads |= {"Semantic FPN": "mIoU", "UperNet": "mIoU"}
    cells: dict[str, dict[str, str]] = {}
    for weights in ZOO.values():
        if weights.architecture != "XCiT" and weights.config and not weights.name.endswith(("_1x", "_1k")):
            metrics = heads[model_name(weights)].split(" / ")
            text = " / ".join(str(weights.metrics[metric]) for metric in metrics)
            row = cells.setdefault(f'`{weights.backbone}("{weights.variant}")`', {})
            row[model_name(weights)] = f"[{text}]({weights.config})"
    for variant, configs in UNPUBLISHED.items():
        row = cells.setdefault(f'`TokenPyramid("{variant}")`', {})
        row |= {model: f"[config]({config})" for model, config in configs.items()}
    rows = [[backbone, *(row.get(model, "") for model in heads)] for backbone, row in cells.items()]
    return "\n" + table(["Other backbones", *(f"{model}, {unit}" for model, unit in heads.items())], rows) + "\n"


def head_table() -> str:
    """The README's third table: heads without published figures."""
    rows = [[head, predicts, f"[config]({config})"] for head, (predicts, config) in OTHER_HEADS.items()]
    return "\n" + table(["Other heads on XCiT-S12", "Predicts", "No published figures"], rows) + "\n"


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
