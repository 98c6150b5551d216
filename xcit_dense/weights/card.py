"""Writes model cards: the ``README.md`` of a saved model, with the fields that the Hugging Face hub reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

LICENCE = "apache-2.0"
"""The licence of this package and of XCiT's published weights."""


def write_card(
    title: str,
    rows: Mapping[str, str],
    usage: str,
    task: str,
    *,
    data: str | None = None,
    metrics: Mapping[str, float] | None = None,
    licence: str | None = None,
    tags: Sequence[str] = (),
) -> str:
    """Writes a model card.

    Args:
        title: The heading.
        rows: What to say of the model, by name. Empty texts are left out.
        usage: Python code that loads the model.
        task: The task in the words of the Hugging Face hub: ``'object-detection'``, for example.
        data: What the model was trained on. None writes that this is unknown.
        metrics: Figures by name. None writes that they are unknown.
        licence: An identifier of the Hugging Face hub. None means :data:`LICENCE`.
        tags: Further tags.

    Returns:
        The text in Markdown.

    Example:
        >>> print(write_card("XCiT", {"Variant": "nano_12_p8"}, "...", "object-detection", metrics={"AP": 40.0}))
        ---
        license: "apache-2.0"
        library_name: "xcit_dense"
        pipeline_tag: "object-detection"
        tags: ["xcit_dense"]
        ---
        <BLANKLINE>
        # XCiT
        <BLANKLINE>
        | | |
        | --- | --- |
        | Variant | nano_12_p8 |
        | Training data | not stated |
        | AP | 40.0 |
        | Licence | apache-2.0 |
        <BLANKLINE>
        ```python
        ...
        ```
        <BLANKLINE>
    """
    licence = licence or LICENCE
    fields = {"license": licence, "library_name": "xcit_dense", "pipeline_tag": task, "tags": ["xcit_dense", *tags]}
    # JSON values are YAML values too.
    head = [f"{name}: {json.dumps(value)}" for name, value in fields.items()]
    figures = {name: str(value) for name, value in (metrics or {}).items()} or {"Metrics": "not stated"}
    table = {**rows, "Training data": data or "not stated", **figures, "Licence": licence}
    lines = [f"| {_cell(name)} | {_cell(text)} |" for name, text in table.items() if text]
    parts = ["---", *head, "---", "", f"# {title}", "", "| | |", "| --- | --- |", *lines]
    return "\n".join([*parts, "", "```python", usage, "```", ""])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
