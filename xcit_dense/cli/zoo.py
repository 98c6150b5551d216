"""Prints the variants and the published weights, with the authors' figures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from xcit_dense.cli.costs import cost_of
from xcit_dense.utils.tables import show_table
from xcit_dense.variants import VARIANTS
from xcit_dense.weights.zoo import SCHEME, Weights, search_weights

_NOTE = (
    "Parameters and multiply-adds: backbones without classifier at the size in their name (without one: 224 x 224\n"
    "pixels), detectors at 800 x 1344, segmentors at 512 x 512. Multiply-adds: those of XCA's literal form."
)
SUMMARY = "variants and published weights, with the authors' figures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this subcommand."""
    parser.usage = "%(prog)s [WORD ...]"
    parser.add_argument(
        "search",
        nargs="*",
        metavar="WORD",
        help="only weights that have each word: small, p8, dist, coco, upernet, beit, coat, ...",
    )


def run(args: argparse.Namespace) -> None:
    """Prints the tables."""
    show_zoo(args.search)


def show_zoo(words: Sequence[str] = ()) -> None:
    """Prints the published weights that have each of some words, and their variants.

    Args:
        words: As for :func:`xcit_dense.weights.zoo.search_weights`.

    Raises:
        UserError: A word is unknown, or no weights have all of them.
    """
    found = search_weights(words)
    variants = {weights.variant for weights in found}
    rows = [
        [name, *map(str, (one.embed_dim, one.depth, one.num_heads, one.patch_size))]
        for name, one in VARIANTS.items()
        if name in variants
    ]
    if rows:
        show_table("Variants: XCiT(NAME)", ["name", "channels", "blocks", "heads", "patch"], rows)
    for architecture in dict.fromkeys(weights.architecture for weights in found):
        _show_weights([weights for weights in found if weights.architecture == architecture])
    print(_NOTE)


def _show_weights(found: Sequence[Weights]) -> None:
    """Prints the weights of one architecture."""
    first = found[0]
    is_xcit = first.backbone == "XCiT"  # the names of XCiT's weights contain the variant
    rows = []
    for one in found:
        figures = ", ".join(f"{name} {value}" for name, value in one.metrics.items())
        cost = cost_of(one)
        costs = [f"{cost.parameters:.1f}", f"{cost.multiply_adds:.1f}"]
        variant = [] if is_xcit else [one.variant]
        rows.append([one.name, one.task, figures, *costs, *variant, Path(one.config).stem if one.config else ""])
    show_table(
        f"Weights{'' if is_xcit else f' of {first.architecture}'}, with their authors' figures: "
        f"{first.backbone}.from_pretrained(NAME), or {SCHEME}NAME in configs and tools",
        [
            *["name", "task", "figures, %", "params, M", "multiply-adds, G"],
            *([] if is_xcit else [f"variant: {first.backbone}(NAME)"]),
            "config",
        ],
        rows,
    )
