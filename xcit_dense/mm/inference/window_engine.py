"""Models of the MM libraries that predict windows: in prediction of large images, and in evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from mmengine.config import Config
from mmengine.model import BaseTTAModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from xcit_dense.errors import UserError
from xcit_dense.inference.windows.blend import Blender, Scores, choose
from xcit_dense.inference.windows.engine import Values
from xcit_dense.inference.windows.merge import Merger
from xcit_dense.inference.windows.objects import Found, in_image
from xcit_dense.inference.windows.plan import Plan, scaled_size
from xcit_dense.mm.bands import LoadBands
from xcit_dense.mm.config.walk import name_of
from xcit_dense.mm.inference.predict import Predictor, split_pipeline, takes_bgr, test_dataset
from xcit_dense.mm.inference.samples import predicted_instances
from xcit_dense.rasters.source import Source
from xcit_dense.rasters.values import choose_rgb
from xcit_dense.rasters.window import Window
from xcit_dense.structures import Colour, Instances

_RESIZES = ("Resize", "FixScaleResize", "ResizeShortestEdge", "RandomResize", "RandomChoiceResize", "ResizeToMultiple")
_ORDINARY = 3  # the bands of a model without --bands


def use_native_size(config: Config) -> None:
    """Changes a config, in place, so that its model predicts windows as they are.

    The test pipeline keeps the size of its images, because windows have the size that the user chose. A segmentor does
    not slide inside a window. All other steps stay.

    Args:
        config: A complete config.
    """
    pipeline = [step for step in test_dataset(config).get("pipeline") or [] if name_of(step) not in _RESIZES]
    # The step leaves the image as it is. Detectors read the scale that the step records.
    pipeline.insert(1, {"type": "Resize", "scale_factor": 1.0, "keep_ratio": False})
    test_dataset(config)["pipeline"] = pipeline
    if (config.model.get("test_cfg") or {}).get("mode") == "slide":
        config.model.test_cfg.mode = "whole"


def predict_windows(model: Any, inputs: Sequence[Tensor], samples: Sequence[Any], scale: float) -> list[Any]:
    """Predicts windows at a scale.

    Args:
        model: The detector or segmentor.
        inputs: Windows of one size, each (C, h, w), as the test pipeline packs them.
        samples: A data sample for each window. Its sizes are replaced.
        scale: The size of what the model sees over the size of the window.

    Returns:
        The samples with predictions in pixels of the windows.
    """
    scaled = []
    for window, sample in zip(inputs, samples, strict=True):
        height, width = window.shape[1:]
        size = scaled_size(height, width, scale)
        if size != (height, width):
            pixels = cv2.resize(window.permute(1, 2, 0).numpy(), size[::-1], interpolation=cv2.INTER_LINEAR)
            pixels = pixels.reshape(*size, -1)  # (h', w', C): OpenCV drops the axis of a single channel
            window = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
        scaled.append(window)
        ratios = size[1] / width, size[0] / height
        sample.set_metainfo({"ori_shape": (height, width), "img_shape": size, "scale_factor": ratios})
    with torch.no_grad(), _without_sliding(model):
        return model.test_step({"inputs": scaled, "data_samples": list(samples)})


@contextmanager
def _without_sliding(model: Any) -> Iterator[None]:
    """Lets a segmentor see a window at once, also if the segmentor slides over complete images."""
    options = getattr(model, "test_cfg", None) or {}
    slides = options.get("mode") == "slide"
    if slides:
        options["mode"] = "whole"
    try:
        yield
    finally:
        if slides:
            options["mode"] = "slide"


def scores_of(sample: Any) -> Scores:
    """The class probabilities of a segmentor's sample: (C, h, w), float32.

    Args:
        sample: A sample with ``seg_logits``. One logit gives the probabilities of two classes.
    """
    logits = sample.seg_logits.data.float()
    if len(logits) == 1:
        # MMSegmentation has already applied the sigmoid.
        return torch.cat([1 - logits, logits]).cpu().numpy()
    return logits.softmax(dim=0).cpu().numpy()


def threshold_of(model: Any) -> float | None:
    """The probability above which a pixel has the second class. None for a model with one logit a class.

    Args:
        model: A segmentor or a detector.
    """
    head: Any = getattr(model, "decode_head", None)
    head = head[-1] if isinstance(head, nn.ModuleList) else head
    return float(head.threshold) if getattr(head, "out_channels", None) == 1 else None


@dataclass(frozen=True)
class MMWindowEngine:
    """A deployed model that predicts windows: an :class:`xcit_dense.inference.windows.engine.WindowEngine`.

    Attributes:
        predictor: The model with its preprocessing, made from a config that :func:`use_native_size` has changed.
        config: The config.
        scale: The size of what the model sees over the size of the window.
    """

    predictor: Predictor
    config: Config
    scale: float = 1.0

    def __post_init__(self) -> None:
        model: Any = self.predictor.model
        model.keeps_logits = True  # of a FusedEncoderDecoder; windows are blended by their scores

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes."""
        return self.predictor.classes

    @property
    def palette(self) -> Sequence[Colour]:
        """The colours of the classes."""
        return self.predictor.palette

    @property
    def segments(self) -> bool:
        """Whether the model is a segmentor."""
        return self.predictor.segments

    @property
    def threshold(self) -> float | None:
        """As for :func:`xcit_dense.inference.windows.blend.choose`."""
        return threshold_of(self.predictor.model)

    @property
    def fill(self) -> Sequence[float]:
        """The mean of each band in the order of the bands of a file."""
        preprocessor: Any = self.predictor.model.data_preprocessor
        mean = getattr(preprocessor, "mean", None)
        count = len(self._bands or range(_ORDINARY))
        values = [0.0] * count if mean is None else mean.flatten().tolist()
        values = values * count if len(values) == 1 else values
        # The preprocessor has the order of the model's channels. Files of ordinary images are RGB.
        is_bgr = self._bands is None and takes_bgr(preprocessor)
        return values[::-1] if is_bgr else values

    @property
    def drawn(self) -> Sequence[int]:
        """The bands that drawings show."""
        return self.predictor.load.drawn if isinstance(self.predictor.load, LoadBands) else ()

    @cached_property
    def fingerprint(self) -> Mapping[str, str]:
        """Hashes of the weights and of the parts of the config on which predictions depend."""
        weights = hashlib.sha256()
        for name, value in sorted(self.predictor.model.state_dict().items()):
            weights.update(name.encode())
            weights.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        config = Config({"model": self.config.model, "pipeline": test_dataset(self.config)["pipeline"]})
        return {
            "weights": weights.hexdigest()[:16],
            "config": hashlib.sha256(config.pretty_text.encode()).hexdigest()[:16],
            "--scale": str(self.scale),
        }

    @property
    def _bands(self) -> Sequence[int] | None:
        return self.predictor.load.bands if isinstance(self.predictor.load, LoadBands) else None

    def choose_bands(self, source: Source) -> Sequence[int]:
        """Chooses the bands of an image that the model gets.

        Args:
            source: The image.

        Raises:
            UserError: The image does not have the bands or the type of the model.
        """
        if self._bands is not None:
            if max(self._bands) > source.bands:
                raise UserError(
                    f"{source.path} has {source.bands} bands, but band {max(self._bands)} is needed; write other "
                    "--bands, or give images that have all bands."
                )
            return self._bands
        return choose_rgb(source, "write for example --bands 1,2,3 to choose bands")

    def score(self, windows: Sequence[Values]) -> Sequence[Scores]:
        """Computes the class scores of windows.

        Args:
            windows: Windows of one size, each (h, w, N).
        """
        return [scores_of(sample) for sample in self._predict(windows)]

    def find(self, windows: Sequence[Values]) -> Sequence[Instances]:
        """Finds the objects in windows.

        Args:
            windows: Windows of one size, each (h, w, N).
        """
        return [predicted_instances(sample.pred_instances) for sample in self._predict(windows)]

    def _predict(self, windows: Sequence[Values]) -> list[Any]:
        packed = [self.predictor.prepare(self.predictor.make_sample(window)) for window in windows]
        inputs, samples = ([one[name] for one in packed] for name in ("inputs", "data_samples"))
        with self.predictor.lock:
            return predict_windows(self.predictor.model, inputs, samples, self.scale)


def by_windows(predictor: Predictor, scale: float = 1.0) -> MMWindowEngine:
    """Makes a model that predicts complete images predict windows too.

    Args:
        predictor: The model with its preprocessing. It does not change, and both share the weights.
        scale: The size of what the model sees over the size of the window.

    Returns:
        The model for windows.
    """
    config = deepcopy(predictor.config)
    use_native_size(config)
    load, prepare = split_pipeline(test_dataset(config)["pipeline"])
    return MMWindowEngine(replace(predictor, load=load, prepare=prepare, config=config), config, scale)


@MODELS.register_module(name="WindowedModel", force=True)
class WindowedModel(BaseTTAModel):
    """A detector or segmentor that MMEngine's test loop calls, and that predicts each image by windows.

    The windows, the blending and the merging are those of prediction, so a metric describes what prediction does. The
    images are in memory. The config needs :func:`use_native_size`.

    MMEngine and the hooks of this package load a checkpoint into the ``module`` of a ``BaseTTAModel``, so this class is
    one.

    Args:
        module: The config of the model.
        window: The side of a window in pixels of the image.
        overlap: The number of pixels that neighbouring windows share.
        scale: The size of what the model sees over the size of the window.
        batch: The largest number of windows in a batch.
        score_thr: The lowest score of an object. The metrics of detectors use objects of low scores too.
    """

    def __init__(
        self, module: Any, window: int, overlap: int, scale: float = 1.0, batch: int = 1, score_thr: float = 0.0
    ) -> None:
        super().__init__(module)
        self.module: Any
        self._window, self._overlap, self._scale, self._batch = window, overlap, scale, batch
        self._score_thr = score_thr

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Refuses: only :meth:`test_step` is possible."""
        raise UserError("A model of windows cannot train; train the model of the config without windows.")

    def merge_preds(self, data_samples_list: Any) -> Any:
        """Refuses: windows are merged by :meth:`test_step`, and not as views of one image."""
        raise UserError("A model of windows does not merge views of an image; leave --tta or --window out.")

    def test_step(self, data: Mapping[str, Any]) -> list[Any]:
        """Predicts a batch of a test data loader.

        Args:
            data: ``inputs``, images (C, H, W); and ``data_samples``.

        Returns:
            The data samples, with predictions.
        """
        for image, sample in zip(data["inputs"], data["data_samples"], strict=True):
            plan = Plan(image.shape[1], image.shape[2], self._window, self._overlap)
            if hasattr(self.module, "decode_head"):
                sample.pred_sem_seg = PixelData(data=torch.from_numpy(self._label(plan, image, sample))[None])
            else:
                sample.pred_instances = self._find(plan, image, sample)
        return list(data["data_samples"])

    def _label(self, plan: Plan, image: Tensor, sample: Any) -> npt.NDArray[np.int64]:
        labels = np.zeros((plan.height, plan.width), np.int64)
        threshold = threshold_of(self.module)
        classes = 2 if threshold is not None else self.module.out_channels
        with TemporaryDirectory() as directory:
            blender = Blender(plan, classes, Path(directory, "shared.npy"))
            for row in range(len(plan.rows)):
                scores = (scores_of(found) for _, found in self._predict(plan, row, image, sample))
                for area, final in blender.add_row(row, scores):
                    labels[area.slices] = choose(final, threshold)
        return labels

    def _find(self, plan: Plan, image: Tensor, sample: Any) -> InstanceData:
        merger = Merger(plan.height, plan.width)
        merged: list[Found] = []
        has_masks = False
        for row in range(len(plan.rows)):
            objects: list[Found] = []
            for window, found in self._predict(plan, row, image, sample):
                has_masks = "masks" in found.pred_instances
                objects += in_image(predicted_instances(found.pred_instances), window, self._score_thr)
            _, next_row = plan.final_rows(row)
            merged += merger.add_row(objects, next_row)
        merged.sort(key=lambda one: -one.score)
        result = InstanceData(
            bboxes=torch.tensor([one.box for one in merged], dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor([one.label for one in merged], dtype=torch.int64),
            scores=torch.tensor([one.score for one in merged], dtype=torch.float32),
        )
        if has_masks:
            area = Window(0, 0, plan.height, plan.width)
            masks = [one.mask.inside(area) for one in merged if one.mask is not None]
            result.masks = torch.from_numpy(np.array(masks, bool).reshape(-1, plan.height, plan.width))
        return result

    def _predict(self, plan: Plan, row: int, image: Tensor, sample: Any) -> Iterator[tuple[Window, Any]]:
        windows = list(plan.windows(row))
        for start in range(0, len(windows), self._batch):
            some = windows[start : start + self._batch]
            cut = []
            for window in some:
                rows, columns = window.slices
                cut.append(image[:, rows, columns].contiguous())
            samples = [type(sample)(metainfo=deepcopy(sample.metainfo)) for _ in some]
            yield from zip(some, predict_windows(self.module, cut, samples, self._scale), strict=True)
