"""Contenders that a runtime of exported models computes: ONNX Runtime and OpenVINO, in fp32 on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor

from xcit_dense.benchmark.contenders import State
from xcit_dense.benchmark.exported import check_runtime
from xcit_dense.errors import UserError
from xcit_dense.export.metadata import Metadata
from xcit_dense.export.openvino_ir import write_openvino
from xcit_dense.export.runtimes import Runtime
from xcit_dense.export.write import write_model
from xcit_dense.inference.exported import ExportedModel
from xcit_dense.mm.benchmark.samples import Batch
from xcit_dense.mm.export.build import make_exportable
from xcit_dense.structures import Instances

_TOLERANCE = 1e-3
"""Largest share of pixels with another label, and largest difference of sorted scores."""


@dataclass(frozen=True)
class Predictions:
    """What a model has predicted.

    Attributes:
        labels: The label map of each image of a segmentor.
        scores: The scores of each image of a detector, in descending order.
    """

    labels: list[Tensor]
    scores: list[Tensor]

    @classmethod
    def of_samples(cls, samples: list[Any]) -> Predictions:
        """Reads the predictions of a model of the MM libraries."""
        labels = [sample.pred_sem_seg.data[0] for sample in samples if "pred_sem_seg" in sample]
        scores = [sample.pred_instances.scores for sample in samples if "pred_instances" in sample]
        return cls(labels, [one.sort(descending=True)[0] for one in scores])

    @classmethod
    def of_results(cls, results: list[Any]) -> Predictions:
        """Reads the predictions of an exported model."""
        labels = [torch.from_numpy(one) for one in results if not isinstance(one, Instances)]
        scores = [torch.from_numpy(one.scores) for one in results if isinstance(one, Instances)]
        return cls(labels, [one.sort(descending=True)[0] for one in scores])

    @property
    def objects(self) -> int | None:
        """The number of objects that a detector has found. A segmentor has none."""
        return sum(map(len, self.scores)) if self.scores else None

    def compare(self, name: str, expected: Predictions) -> dict[str, float]:
        """Compares predictions with the expected predictions.

        Returns:
            The share of pixels with another label, or the largest difference of the sorted scores.

        Raises:
            UserError: The difference is larger than the tolerance.
        """
        errors: dict[str, float] = {}
        for one, other in zip(self.labels, expected.labels, strict=True):
            share = float((one != other).float().mean())
            errors["labels"] = max(share, errors.get("labels", 0.0))
        for one, other in zip(self.scores, expected.scores, strict=True):
            same = len(one) == len(other)
            distance = float((one - other).abs().max()) if same and len(one) else float(len(one) + len(other))
            errors["scores"] = max(distance, errors.get("scores", 0.0))
        for key, error in errors.items():
            if error > _TOLERANCE:
                raise UserError(
                    f"The {key} of {name} differ from the model's by {error:.1e}, and {_TOLERANCE:.0e} is allowed; "
                    f"leave {name} out of --contenders."
                )
        return errors


class Exporter:
    """Exports a model once, for all runtimes.

    Args:
        config: The config of the model.
        weights: The weights of the model.
    """

    def __init__(self, config: Config, weights: State) -> None:
        self.config = config
        self.weights = weights
        self.directory = TemporaryDirectory()

    @cached_property
    def _exported(self) -> tuple[Path, Metadata, bool]:
        """The ONNX file, its metadata, and whether the model takes the channels in the order blue, green, red."""
        output: Any = "labels" if self.config.default_scope == "mmseg" else "logits"
        checkpoint, path = Path(self.directory.name, "weights.pth"), Path(self.directory.name, "model.onnx")
        torch.save({"state_dict": self.weights}, checkpoint)
        model: Any
        model, metadata = make_exportable(self.config, str(checkpoint), output=output, normalise="outside")
        write_model(model, metadata, path)
        return path, metadata, model.bgr

    def open(self, runtime: Runtime, threads: int) -> ExportedContender:
        """Opens the model with a runtime.

        Args:
            runtime: ``'onnxruntime'`` or ``'openvino'``.
            threads: The number of threads of the CPU.

        Raises:
            MissingLibraryError: The runtime is not installed.
            UserError: The model cannot be exported.
        """
        check_runtime(runtime)
        path, metadata, takes_bgr = self._exported
        if runtime == "openvino":
            source, path = path, path.with_suffix(".xml")
            write_openvino(source, metadata, path)
        return ExportedContender(ExportedModel(path, threads), takes_bgr)


@dataclass(frozen=True)
class ExportedContender:
    """A complete model that is exported and opened by a runtime.

    Attributes:
        exported: The model.
        takes_bgr: Whether the model of the config takes the channels in the order blue, green, red.
    """

    exported: ExportedModel
    takes_bgr: bool

    def predict(self, batch: Batch) -> list[Any]:
        """Predicts: from normalised images to boxes and masks of the images' size, or to label maps."""
        images = batch.images.flip(1) if self.takes_bgr else batch.images
        size = tuple(images.shape[2:])
        return list(self.exported.compute(np.ascontiguousarray(images.numpy()), [size] * len(images)))
