"""Results as JSON, tables and plots."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch.utils import collect_env

from xcit_dense.benchmark.figures import TOLERANCES, Figures, Result
from xcit_dense.benchmark.options import Conditions, Options
from xcit_dense.errors import MissingLibraryError
from xcit_dense.utils.files import atomic_write

try:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator
except ImportError as error:
    raise MissingLibraryError("The figures are drawn with matplotlib; write pip install matplotlib.") from error


def write_json(path: Path, options: Conditions, results: Sequence[Result]) -> None:
    """Writes machine, versions, options and results to a file. The write is atomic; missing directories are made.

    Raises:
        UserError: The file cannot be written.
    """
    cpu = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpu.read_text()) if cpu.is_file() else None
    machine: dict[str, Any] = {"cpu": model[1] if model else platform.processor(), "cores": os.cpu_count()}
    if options.device == "cuda":
        driver = collect_env.get_nvidia_driver_version(collect_env.run)
        machine |= {"gpu": torch.cuda.get_device_name(), "driver": driver}
    content = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__},
        "options": asdict(options),
        "tolerance": TOLERANCES[options.dtype],
        "results": [asdict(result) for result in results],
    }
    with atomic_write(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n")


def table(result: Result, options: Options) -> str:
    """Returns the figures of one size as a table in Markdown, with the figures of all contenders below."""
    rows = [["contender", "time, ms", "quartiles, ms", "timm / it", "floor / it", "saved, MB", "it / timm", "peak, MB"]]
    rows[0].append("multiply-adds, G")
    peer = result.contenders.get("timm")
    timm_time, timm_saved = (peer.seconds, peer.saved_bytes) if peer else (None, None)
    for name, one in result.contenders.items():
        rows.append([name, format_ratio(one.seconds, 1e-3), quartiles(one), format_ratio(timm_time, one.seconds)])
        rows[-1] += [
            format_ratio(result.floor, one.seconds),
            format_ratio(one.saved_bytes, 1e6),
            format_ratio(one.saved_bytes, timm_saved),
        ]
        rows[-1] += [format_ratio(one.peak_bytes, 1e6), format_ratio(one.multiply_adds, 1e9)]
    saving = result.attention["covariance"] / result.attention["literal"]
    worst = max(error for one in result.contenders.values() for error in one.errors.values())
    return f"""
{result.size}, {options}

{format_rows(rows)}

Floor, matrix products of the same shapes: {format_ratio(result.floor, 1e-3)} ms.
Attention alone, multiply-adds of the covariance form over those of the literal form: {saving:.3f}.
All agree with the literal form in fp32 to {worst:.1e} standard deviations; {TOLERANCES[options.dtype]:.0e} is allowed.
"""


def summary(cases: Mapping[str, Sequence[Result]]) -> str:
    """Returns the times and the peak memory of several cases as a table in Markdown.

    Args:
        cases: The results of each case, by its name.
    """
    rows = [["case", "size", "contender", "time, ms", "timm / it", "peak, MB"]]
    for case, result in ((name, result) for name, results in cases.items() for result in results):
        peer = result.contenders.get("timm")
        for name, one in result.contenders.items():
            ratio = format_ratio(peer.seconds if peer else None, one.seconds)
            peak = format_ratio(one.peak_bytes, 1e6)
            rows.append([case, result.size, name, format_ratio(one.seconds, 1e-3), ratio, peak])
    return format_rows(rows)


def growth(first: Result, last: Result) -> str:
    """Returns how time and saved bytes for each pixel change from one size to another."""
    lines, pixels = [f"A pixel of {last.size} over one of {first.size}:"], last.pixels / first.pixels
    for name in [name for name in last.contenders if name in first.contenders]:
        before, after = first.contenders[name], last.contenders[name]
        saved = format_ratio(after.saved_bytes, before.saved_bytes and before.saved_bytes * pixels)
        lines.append(f"  {name:20} time {format_ratio(after.seconds, before.seconds * pixels)}, saved {saved}")
    return "\n".join(lines)


def quartiles(figures: Figures) -> str:
    """Returns the first and the third quartile of the times, in milliseconds."""
    return " .. ".join(f"{1e3 * time:.2f}" for time in np.quantile(figures.samples, (0.25, 0.75)))


def format_rows(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows as a table in Markdown. The first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    ruled = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return "\n".join(f"| {' | '.join(map(str.rjust, row, widths))} |" for row in ruled)


def format_ratio(number: float | None, unit: float | None) -> str:
    """Returns a number in a unit with two digits, or a dash if one of both is missing."""
    return f"{number / unit:.2f}" if number and unit else "-"


def draw(results: Sequence[Result], options: Conditions, directory: Path) -> None:
    """Draws time.png, and memory.png if memory was counted: the peak on CUDA, the saved bytes on CPU."""
    measured = [name for name in options.contenders if all(name in result.contenders for result in results)]
    rows = {name: [result.contenders[name] for result in results] for name in measured}
    times = {name: [1e3 * one.seconds for one in row] for name, row in rows.items()}
    times["matrix products"] = [1e3 * result.floor for result in results if result.floor]
    _plot(directory / "time.png", "time, ms", times, results, str(options))
    counted = {name: [one.peak_bytes or one.saved_bytes or 0 for one in row] for name, row in rows.items()}
    if any(map(any, counted.values())):
        memory = {name: [number / 1e6 for number in row if number] for name, row in counted.items()}
        kind = "peak of a step" if options.device == "cuda" else "saved for the backward pass"
        _plot(directory / "memory.png", f"memory, {kind}, MB", memory, results, str(options))


def _plot(path: Path, what: str, lines: dict[str, list[float]], results: Sequence[Result], title: str) -> None:
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")  # without pyplot, a display is not needed
    axes = figure.add_subplot(title=title, xlabel="pixels, height x width", ylabel=what, xscale="log", yscale="log")
    pixels = [result.pixels for result in results]
    for index, (name, values) in enumerate(lines.items()):
        if values:
            marker, dash = "s" if "timm" in name else "o", "--" if "compiled" in name else "-"
            axes.plot(pixels, values, color=f"C{index}", marker=marker, linestyle=dash, label=name)
    axes.set_xticks(pixels, [result.size for result in results], rotation=30)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    with atomic_write(path) as part:
        figure.savefig(part)
