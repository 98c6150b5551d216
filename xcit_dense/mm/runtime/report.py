"""What a run prints on a quiet console: what it does, losses, metrics, and where the files are."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from xcit_dense.mm.runtime.console import say
from xcit_dense.mm.runtime.schedule import describe_end, find_faults, is_over
from xcit_dense.mm.runtime.shared_images import shares_images
from xcit_dense.models.backbone import Backbone
from xcit_dense.utils.progress import Lines, format_seconds, make_progress

_COLUMNS = {
    "mAP": "AP",
    "mAP_50": "AP50",
    "mAP_75": "AP75",
    "mAP_s": "small",
    "mAP_m": "medium",
    "mAP_l": "large",
}
"""COCO's metrics by the end of MMDetection's names, and the headings of their columns."""
_ROWS = {"bbox": "boxes", "segm": "masks"}
_BETWEEN_LINES = 60.0  # seconds


class ReportHook(Hook):
    """Prints a run's facts, losses, metrics and files in a few lines. Only rank 0 prints.

    The log file contains the same lines. :func:`xcit_dense.mm.runtime.launch.make_runner` adds this hook; configs do
    not contain it.
    """

    priority = "LOWEST"  # after the hooks that write files

    def __init__(self) -> None:
        self._progress: Lines | None = None
        self._start = self._evaluation_start = self._printed = 0.0
        self._first = 0

    def before_train(self, runner: Any) -> None:
        """Prints what is trained on what."""
        say(runner.logger, "\n".join(describe_training(runner)))
        for fault in find_faults(runner):
            runner.logger.warning(fault)
        if is_over(runner):
            say(runner.logger, describe_end(runner))
        self._start = self._printed = time.monotonic()
        self._first = runner.iter

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Prints the loss after each tenth of the training, and once a minute in a long training."""
        done, total = runner.iter + 1, runner.max_iters
        now = time.monotonic()
        is_tenth = done % max(1, total // 10) == 0
        is_hundredth = done % max(1, total // 100) == 0  # a training of days does not print a line per minute
        if is_tenth or done == total or (is_hundredth and now - self._printed > _BETWEEN_LINES):
            self._printed = now
            say(runner.logger, _describe_step(runner, done, total))

    def before_val_epoch(self, runner: Any) -> None:
        """Starts the progress lines of a validation, if there is no terminal for a bar."""
        self._start_evaluation("validation batches", len(runner.val_dataloader))

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Prints the progress of a validation."""
        if self._progress:
            self._progress.update("validation batches", batch_idx + 1)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Prints the metrics of a validation."""
        # runner.iter would build the training's loop, which a run that only validates does not need.
        where = f" at iteration {runner.iter}" if hasattr(runner._train_loop, "iter") else ""
        self._end_evaluation(runner, f"Validation{where}", runner.val_dataloader, metrics)

    def before_test(self, runner: Any) -> None:
        """Prints what is tested on what."""
        say(runner.logger, "\n".join(describe_test(runner)))

    def before_test_epoch(self, runner: Any) -> None:
        """Starts the progress lines of a test, if there is no terminal for a bar."""
        self._start_evaluation("test batches", len(runner.test_dataloader))

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Prints the progress of a test."""
        if self._progress:
            self._progress.update("test batches", batch_idx + 1)

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Prints the metrics of a test."""
        self._end_evaluation(runner, "Test", runner.test_dataloader, metrics)

    def after_train(self, runner: Any) -> None:
        """Prints where the files of the training are."""
        work_dir = Path(runner.work_dir)
        files = [("learning curve", work_dir / "learning_curve.png"), ("log", _log_file(runner))]
        pointer = work_dir / "last_checkpoint"
        if pointer.is_file():
            files.insert(0, ("checkpoint", Path(pointer.read_text().strip())))
        lines = [f"Trained {runner.iter - self._first} iterations in {format_seconds(time.monotonic() - self._start)}."]
        lines += [f"  {what:14}  {_relative(path)}" for what, path in files if path and path.exists()]
        say(runner.logger, "\n".join(lines))

    def _start_evaluation(self, what: str, batches: int) -> None:
        self._evaluation_start = time.monotonic()
        progress = make_progress(delay=math.inf)
        if isinstance(progress, Lines):  # in a terminal, ProgressHook shows a bar
            self._progress = progress
            self._progress.add(what, batches)

    def _end_evaluation(self, runner: Any, title: str, loader: Any, metrics: dict[str, float] | None) -> None:
        self._progress = None
        spent = format_seconds(time.monotonic() - self._evaluation_start)
        say(runner.logger, f"{title}, {len(loader.dataset)} images in {spent}:\n{format_metrics(metrics or {})}")


def describe_training(runner: Any) -> list[str]:
    """Describes a training in five lines: model, data, device, schedule, log.

    Args:
        runner: MMEngine's runner, which is about to train.
    """
    loader = runner.train_dataloader
    counts = f"{len(loader.dataset)} training"
    if runner.val_loop is not None:
        counts += f" and {len(runner.val_dataloader.dataset)} validation"
    return [
        f"Training {_describe_model(runner)}, {_describe_start(runner)}",
        f"Data:     {counts} images{_describe_classes(loader.dataset)}",
        f"Device:   {_describe_device()}",
        f"Schedule: {_describe_schedule(runner)}",
        f"Log:      {_relative(_log_file(runner))}",
    ]


def describe_test(runner: Any) -> list[str]:
    """Describes a test in four lines: model, data, device, log.

    Args:
        runner: MMEngine's runner, which is about to test.
    """
    dataset = runner.test_dataloader.dataset
    exported = (runner.cfg.get("model") or {}).get("path")  # an exported model has no parameters here
    if exported:
        what = f"the exported model {_relative(exported)}"
    else:
        what = f"{_describe_model(runner)}, {_describe_start(runner)}"
    return [
        f"Testing {what}",
        f"Data:   {len(dataset)} images{_describe_classes(dataset)}",
        f"Device: {_describe_device()}",
        f"Log:    {_relative(_log_file(runner))}",
    ]


def format_metrics(metrics: dict[str, float]) -> str:
    """Formats the metrics of an evaluation as one compact table.

    COCO's metrics fill a row for boxes and a row for masks. Other metrics fill a row together.

    Args:
        metrics: Values by name, as MMEngine's evaluators return them. COCO uses -1 for a size without objects.

    Example:
        >>> print(format_metrics({"coco/bbox_mAP": 0.25, "coco/bbox_mAP_50": 0.5, "coco/bbox_mAP_s": -1.0}))
                    AP   AP50  small
        boxes    0.250  0.500      -
        >>> print(format_metrics({"mIoU": 71.5, "aAcc": 92.25}))
          mIoU    aAcc
        71.500  92.250
    """
    rows: dict[str, dict[str, float]] = {}
    others: dict[str, float] = {}
    for name, value in metrics.items():
        kind, _, metric = name.rsplit("/", 1)[-1].partition("_")
        if kind in _ROWS and metric in _COLUMNS:
            rows.setdefault(_ROWS[kind], {})[_COLUMNS[metric]] = math.nan if value == -1 else value
        elif name not in ("time", "data_time"):
            others[name] = value
    lines = []
    if rows:
        columns = [column for column in _COLUMNS.values() if any(column in row for row in rows.values())]
        lines.append(" " * 7 + "".join(f"{column:>7}" for column in columns))
        for label, row in rows.items():
            lines.append(f"{label:7}" + "".join(f"{_format_value(row.get(column, math.nan)):>7}" for column in columns))
    if others:
        widths = [max(len(name), len(_format_value(value))) for name, value in others.items()]
        lines.append("  ".join(f"{name:>{width}}" for name, width in zip(others, widths)))
        lines.append("  ".join(f"{_format_value(value):>{width}}" for value, width in zip(others.values(), widths)))
    return "\n".join(lines) or "no metrics"


def _format_value(value: Any) -> str:
    try:
        number = float(value)  # MMSegmentation's values are NumPy's numbers
    except (TypeError, ValueError):
        return str(value)
    return "-" if math.isnan(number) else f"{number:.3f}"


def _describe_model(runner: Any) -> str:
    model = runner.model
    if is_model_wrapper(model):
        model = model.module
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    while hasattr(model, "module"):  # of test-time augmentation
        model = model.module
    head = getattr(model, "decode_head", None)
    name = type(model).__name__ + (f" with {type(head).__name__}" if head is not None else "")
    if getattr(model, "backbone", None) is not None:
        name += f" on {_describe_backbone(runner, model.backbone)}"
    return f"{name}, {parameters:.1f} M parameters"


def _describe_backbone(runner: Any, backbone: Any) -> str:
    settings = runner.cfg.get("model") or {}
    settings = (settings.get("module") or settings).get("backbone") or {}
    if isinstance(backbone, Backbone):
        return f"{backbone.kind} {settings.get('variant') or f'with {backbone.out_channels[-1]} channels'}"
    return type(backbone).__name__


def _describe_start(runner: Any) -> str:
    if runner._resume:
        return f"resumed at iteration {runner.iter}"
    if runner._load_from:
        return f"weights of {_relative(runner._load_from)}"
    init = ((runner.cfg.get("model") or {}).get("backbone") or {}).get("init_cfg")
    if isinstance(init, dict) and "checkpoint" in init:
        return f"backbone's weights of {init['checkpoint']}"
    return "random weights"


def _describe_classes(dataset: Any) -> str:
    while not hasattr(dataset, "metainfo") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    classes = (getattr(dataset, "metainfo", None) or {}).get("classes") or ()
    root = getattr(dataset, "data_root", None)
    named = f", {len(classes)} classes" if classes else ""
    if 0 < len(classes) <= 5:
        named += f" ({', '.join(classes)})"
    return f"{named}, in {root}" if root else named


def _describe_device() -> str:
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        threads = torch.get_num_threads()
        device = f"CPU, {threads} thread{'s' * (threads > 1)}"
    processes = dist.get_world_size()
    return f"{processes} x {device}" if processes > 1 else device


def _describe_schedule(runner: Any) -> str:
    loader, iterations = runner.train_dataloader, runner.max_iters
    # Not loader.batch_size: ReproducibleHook replaces the loader by one whose batch sampler PyTorch does not know.
    batch = (runner.cfg.get("train_dataloader") or {}).get("batch_size", 0)
    if not shares_images(runner.cfg):
        batch *= dist.get_world_size()
    parts = [f"{iterations} iterations"]
    if batch:
        epochs = iterations * batch / max(1, len(loader.dataset))
        parts = [f"{iterations} iterations of {batch} image{'s' * (batch > 1)} ({epochs:.1f} epochs)"]
    optimizer = getattr(runner.optim_wrapper, "optimizer", None)
    if optimizer is not None:
        rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        parts.append(f"{type(optimizer).__name__} with learning rate {max(rates):g}")
    if runner.val_loop is not None:
        unit = "epochs" if getattr(runner.train_loop, "_max_epochs", 1) > 1 else "iterations"
        parts.append(f"validation every {runner.val_interval} {unit}")
    return ", ".join(parts)


def _describe_step(runner: Any, done: int, total: int) -> str:
    scalars = runner.message_hub.log_scalars
    parts = [f"iteration {done:>{len(str(total))}}/{total}"]
    if "train/loss" in scalars:
        parts.append(f"loss {scalars['train/loss'].mean(50):.4g}")
    if "train/time" in scalars:
        seconds = float(scalars["train/time"].mean(50))
        parts.append(f"{1 / seconds:.1f} it/s" if seconds < 1 else f"{seconds:.1f} s/it")
        parts.append(f"{format_seconds(seconds * (total - done))} left")
    return "  ".join(parts)


def _log_file(runner: Any) -> Path | None:
    path = getattr(runner.logger, "log_file", None)
    return Path(path) if path else None


def _relative(path: Any) -> str:
    """Shortens a path below the current directory; addresses and other paths stay as they are."""
    if "://" not in str(path) and Path(path).is_relative_to(Path.cwd()):
        return str(Path(path).relative_to(Path.cwd()))
    return str(path)
