"""Exported models without weights, written without the MM libraries."""

import torch

from xcit_dense.export.metadata import Metadata, Resize
from xcit_dense.export.write import write_model


class Segmentor(torch.nn.Module):
    """Class 1 where an image is bright."""

    def forward(self, images):
        bright = images.mean(dim=1) - 100
        return torch.stack((-bright, bright), dim=1)  # (B, 2, H, W)


class Labels(Segmentor):
    """As labels."""

    def forward(self, images):
        return super().forward(images).argmax(dim=1)


class Detector(torch.nn.Module):
    """One object in the upper left quarter of each image."""

    def forward(self, images):
        side = torch.ones_like(images[:, 0]).sum(dim=(1, 2)).sqrt() / 2  # (B,), of square images
        zero = torch.zeros_like(side)
        boxes = torch.stack((zero, zero, side, side), dim=1)[:, None]  # (B, 1, 4)
        masks = torch.ones_like(boxes)[..., None].expand(-1, -1, -1, 4)  # (B, 1, 4, 4)
        return boxes, zero[:, None] + 0.9, torch.zeros_like(zero[:, None], dtype=torch.int64), masks


def write_exported(task, model, outputs, path):
    """Exports a model without MM libraries."""
    names, colours = ("dark", "bright"), ((0, 0, 0), (255, 255, 0))
    numbers = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "normalise": "inside", "stride": 4}
    metadata = Metadata(task, outputs, **numbers, classes=names, palette=colours, resize=Resize((32, 32), True))
    write_model(model.eval(), metadata, path)
    return path
