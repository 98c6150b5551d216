"""The time of each part of a model, in steps of their own, so that the timing of the race is not affected."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn

from xcit_dense.benchmark.meters import clock
from xcit_dense.mm.benchmark import steps
from xcit_dense.mm.benchmark.contenders import find_part
from xcit_dense.mm.benchmark.options import ModelOptions
from xcit_dense.mm.benchmark.samples import Batch

_PARTS = (
    ("backbone", "backbone", "forward"),
    ("neck", "neck", "forward"),
    ("RPN", "rpn_head", "forward"),
    ("RPN, losses", "rpn_head", "loss_by_feat"),
    ("proposals", "rpn_head", "predict_by_feat"),
    ("RoIAlign, boxes", "roi_head.bbox_roi_extractor", "forward"),
    ("box head", "roi_head.bbox_head", "forward"),
    ("boxes, NMS", "roi_head.bbox_head", "predict_by_feat"),
    ("RoIAlign, masks", "roi_head.mask_roi_extractor", "forward"),
    ("mask head", "roi_head.mask_head", "forward"),
    ("mask pasting", "roi_head.mask_head", "predict_by_feat"),
    ("head", "bbox_head", "forward"),
    ("losses", "bbox_head", "loss_by_feat"),
    ("boxes, NMS", "bbox_head", "predict_by_feat"),
    ("decode head", "decode_head", "forward"),
    ("resize", "decode_head", "predict_by_feat"),
    ("losses", "decode_head", "loss_by_feat"),
    ("labels", "", "postprocess_result"),
    ("auxiliary head", "auxiliary_head", "forward"),
)
"""Name in the table, name of the module in the model, method."""

_OTHER = "other"


def time_parts(model: Any, batch: Batch, options: ModelOptions) -> dict[str, float]:
    """Times the parts of a step.

    In training, the backward pass is divided where all gradients of the neck's outputs, and those of the backbone's
    outputs, are computed.

    Args:
        model: A model of the MM libraries, in the mode of the options. It is not compiled, and it has run before.
        batch: The images and the ground truth.
        options: The kind of step, the device and the number of rounds.

    Returns:
        Seconds of each part, each the median of up to three steps. What the parts do not contain is ``'other'``.
    """
    samples = [_time_once(model, batch, options) for _ in range(min(3, options.rounds))]
    return {name: median(sample[name] for sample in samples) for name in samples[0]}


def _time_once(model: Any, batch: Batch, options: ModelOptions) -> dict[str, float]:
    stopwatch = _Stopwatch(options.device)
    with stopwatch.attached(model):
        if not options.train:
            total = clock(partial(steps.predict, model, batch, options), options.device)
            backward: dict[str, float] = {}
        else:
            losses: list[Any] = []
            total = clock(lambda: losses.append(steps.lose(model, batch, options)), options.device)
            begin = stopwatch.now()
            losses[0].backward()
            backward = stopwatch.divide(begin, stopwatch.now())
            model.zero_grad(set_to_none=True)
    times = stopwatch.seconds
    times[_OTHER] = total - sum(times.values())
    times.update(backward)
    return times


class _Stopwatch:
    """Adds up the seconds of methods, and notes when gradients are complete."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.reached: dict[str, float] = {}

    def now(self) -> float:
        """Returns the time after all work on the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def attached(self, model: Any) -> Iterator[None]:
        """Measures the methods of a model's parts."""
        wrapped: list[tuple[Any, str]] = []
        for label, name, method in _PARTS:
            part = find_part(model, name) if name else model
            for one in part if isinstance(part, nn.ModuleList) else [part]:
                if hasattr(one, method) and (one, method) not in wrapped:
                    setattr(one, method, self._measure(label, getattr(one, method)))
                    wrapped.append((one, method))
        try:
            yield
        finally:
            for one, method in wrapped:
                delattr(one, method)

    def _measure(self, label: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = self.now()
            found = method(*args, **kwargs)
            self.seconds[label] += self.now() - start
            if label in ("neck", "backbone"):
                for tensor in steps.tensors_in(found):
                    if tensor.requires_grad:
                        tensor.register_hook(partial(self._reach, label))
            return found

        return call

    def _reach(self, label: str, gradient: Any) -> None:
        self.reached[label] = self.now()

    def divide(self, begin: float, end: float) -> dict[str, float]:
        """Divides a backward pass between heads, neck and backbone."""
        names, times = ["heads"], [begin]
        for label in ("neck", "backbone"):
            if label in self.reached:
                times.append(self.reached[label])
                names.append(label)
        times.append(end)
        return {f"{name}, backward": after - before for name, before, after in zip(names, times, times[1:])}
