"""The results of complete models as tables."""

from __future__ import annotations

from xcit_dense.benchmark.figures import TOLERANCES, Result
from xcit_dense.benchmark.report import format_ratio, format_rows, quartiles
from xcit_dense.mm.benchmark.contenders import REFERENCE
from xcit_dense.mm.benchmark.options import ModelOptions
from xcit_dense.mm.benchmark.race import GRADIENTS

_HEADER = ["contender", "time, ms", "quartiles, ms", "timm / it", "library / it", "saved, MB", "peak, MB"]
_HEADER += ["it / library", "multiply-adds, G", "objects"]


def table(result: Result, options: ModelOptions) -> str:
    """Returns the figures of one size as tables in Markdown.

    Args:
        result: The figures.
        options: The options of the run.
    """
    rows, timm, library = [_HEADER], result.contenders.get("timm"), result.contenders.get(REFERENCE)
    times = [peer.seconds if peer else None for peer in (timm, library)]
    peak = library.peak_bytes if library else None
    for name, one in result.contenders.items():
        row = [name, format_ratio(one.seconds, 1e-3), quartiles(one)]
        row += [format_ratio(time, one.seconds) for time in times]
        row += [format_ratio(one.saved_bytes, 1e6), format_ratio(one.peak_bytes, 1e6)]
        row += [format_ratio(one.peak_bytes, peak), format_ratio(one.multiply_adds, 1e9)]
        rows.append([*row, "-" if one.objects is None else str(one.objects)])
    text = f"\n{result.size}, {options}\n\n{format_rows(rows)}\n{parts_table(result)}"
    errors = [error for one in result.contenders.values() for error in one.errors.items()]
    outputs = [error for key, error in errors if not key.startswith("gradients")]
    gradients = [error for key, error in errors if key.startswith("gradients")]
    for what, distances, tolerances in (("outputs", outputs, TOLERANCES), ("gradients", gradients, GRADIENTS)):
        if distances:
            text += (
                f"\nThe {what} of all agree with those of the library's heads in fp32 to {max(distances):.1e} standard "
                f"deviations; {tolerances[options.dtype]:.0e} is allowed."
            )
            if what == "gradients" and max(distances) > GRADIENTS[options.dtype]:
                text += f" The library's heads in {options.dtype} are about as far away."
    for name, reason in result.left_out.items():
        text += f"\nLeft out: {name}. {reason}"
    return text + "\n"


def parts_table(result: Result) -> str:
    """Returns the milliseconds of each part as a table in Markdown, with a column for each contender that has parts.

    Args:
        result: The figures.
    """
    columns = {name: one.parts for name, one in result.contenders.items() if one.parts}
    if not columns:
        return ""
    labels = dict.fromkeys(label for parts in columns.values() for label in parts)
    rows = [["part, ms", *columns]]
    rows += [[label, *(format_ratio(parts.get(label), 1e-3) for parts in columns.values())] for label in labels]
    return f"\n{format_rows(rows)}\n"
