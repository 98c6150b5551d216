"""An exportable module and its metadata, from a config and a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from mmengine.config import Config
from torch import nn

from xcit_dense import __version__
from xcit_dense.errors import UserError
from xcit_dense.export.graph import Normalised
from xcit_dense.export.metadata import Metadata, Normalise, Resize, Task
from xcit_dense.mm.config.walk import name_of
from xcit_dense.mm.export.detector import Detector
from xcit_dense.mm.export.segmentor import Output, Segmentor
from xcit_dense.mm.export.supported import check_detector, check_segmentor
from xcit_dense.mm.inference.predict import Predictor, make_predictor, takes_bgr, test_dataset
from xcit_dense.models.backbone import Backbone

Part = Literal["model", "backbone"]

_IGNORED = ("LoadImageFromFile", "LoadAnnotations", "LoadPanopticAnnotations", "PackDetInputs", "PackSegInputs")
"""Steps of a test pipeline that do not change the image."""


def make_exportable(
    config: Config,
    weights: str,
    *,
    part: Part = "model",
    output: Output = "logits",
    normalise: Normalise = "inside",
    verbose: bool = False,
) -> tuple[nn.Module, Metadata]:
    """Builds the model of a config for :func:`xcit_dense.export.write.write_model`.

    Args:
        config: A complete config that :func:`xcit_dense.mm.config.checks.check_config` accepts.
        weights: The path or address of a checkpoint.
        part: ``'model'``, or ``'backbone'`` for the backbone without neck and heads.
        output: What a segmentor returns: ``'logits'`` or ``'labels'``.
        normalise: Whether the model normalises the images itself.
        verbose: Print what MMEngine logs while it builds the model.

    Returns:
        The model, which takes RGB images, and its metadata.

    Raises:
        UserError: As for :func:`xcit_dense.mm.inference.predict.make_predictor`. Also: a part of the model or of its
            preprocessing cannot be exported.
    """
    predictor = make_predictor(config, weights, verbose)
    if output != "logits" and (part == "backbone" or not predictor.segments):
        what = "a backbone" if part == "backbone" else "a detector"
        raise UserError(f"Only a segmentor returns {output}, and the model to export is {what}; leave --output out.")
    model: Any = predictor.model.cpu()
    resize = _read_resize(test_dataset(config).get("pipeline") or [])
    preprocessor = model.data_preprocessor
    _check_preprocessor(preprocessor)
    inner, task, details = _take_part(predictor, model, part, output)
    is_bgr = takes_bgr(preprocessor)
    mean, std = _numbers(preprocessor, "mean", 0.0), _numbers(preprocessor, "std", 1.0)
    if is_bgr:
        mean, std = mean[::-1], std[::-1]
    metadata = Metadata(
        task=task,
        mean=mean,
        std=std,
        normalise=normalise,
        stride=max(model.backbone.out_strides) if isinstance(model.backbone, Backbone) else 32,
        classes=tuple(predictor.classes),
        palette=tuple(predictor.palette),
        resize=resize,
        version=__version__,
        **details,
    )
    return Normalised(inner, mean, std, normalise, is_bgr).eval(), metadata


def _take_part(predictor: Predictor, model: Any, part: Part, output: Output) -> tuple[nn.Module, Task, dict[str, Any]]:
    """Returns the module that is exported, its task, and the metadata that depends on the task."""
    if part == "backbone":
        strides = getattr(model.backbone, "out_strides", ())
        if not strides:
            raise UserError(
                f"The backbone {type(model.backbone).__name__} cannot be exported alone, because it does not state its "
                "strides; export the model."
            )
        return model.backbone, "features", {"outputs": tuple(f"stride_{stride}" for stride in strides)}
    if predictor.segments:
        check_segmentor(model)
        head = model.decode_head
        options = model.data_preprocessor.test_cfg or {}
        segmentor = Segmentor(model, output, options.get("size_divisor", 1), float(model.data_preprocessor.pad_val))
        details = {
            "outputs": segmentor.outputs,
            "threshold": float(head.threshold or 0.5),
        }
        return segmentor, "segmentation", details
    check_detector(model)
    preprocessor = model.data_preprocessor
    detector = Detector(model, preprocessor.pad_size_divisor, float(preprocessor.pad_value))
    threshold = model.roi_head.test_cfg.mask_thr_binary if detector.has_masks else 0.5
    return detector, "detection", {"outputs": detector.outputs, "threshold": float(threshold)}


def _check_preprocessor(preprocessor: Any) -> None:
    from mmdet.models.data_preprocessors import DetDataPreprocessor
    from mmseg.models import SegDataPreProcessor

    if type(preprocessor) not in (DetDataPreprocessor, SegDataPreProcessor):
        raise UserError(
            f"The preprocessing of {type(preprocessor).__name__} cannot be exported; write type='DetDataPreprocessor' "
            "or type='SegDataPreProcessor' in model.data_preprocessor."
        )
    if (getattr(preprocessor, "test_cfg", None) or {}).get("size"):
        raise UserError(
            "model.data_preprocessor.test_cfg.size pads each image to one size, which a graph for all sizes does not "
            "do; write size_divisor instead."
        )


def _numbers(preprocessor: Any, name: str, default: float) -> tuple[float, ...]:
    value = getattr(preprocessor, name, None)
    return (default,) * 3 if value is None else tuple(float(number) for number in value.flatten())


def _read_resize(pipeline: Sequence[Any]) -> Resize | None:
    """Reads the size rule of a test pipeline. Refuses steps that a program without MMCV cannot repeat."""
    resize = None
    for step in pipeline:
        name = name_of(step)
        options = {key: value for key, value in step.items() if key != "type"}
        if name in _IGNORED:
            continue
        plain = name == "Resize" and resize is None and set(options) <= {"scale", "keep_ratio"} and "scale" in options
        if not plain:
            raise UserError(
                f"The step {name}({', '.join(options)}) of the config's test pipeline cannot be exported; use "
                "LoadImageFromFile and one Resize with scale and keep_ratio."
            )
        scale = options["scale"]
        width, height = (scale, scale) if isinstance(scale, int) else scale
        resize = Resize((int(width), int(height)), bool(options.get("keep_ratio", False)))
    return resize
