"""Trains a segmentor with an XCiT backbone in Lightning, on the embedded data set or on data in the layout of ADE20K.

    pip install 'xcit-dense[lightning]'
    xcit-dense shapes data/shapes
    python examples/lightning_segmentation.py data/shapes --weights small_12_p16_384_dist
    python examples/lightning_segmentation.py data/shapes --devices 2 --precision bf16-mixed

With ``--devices 2``, Lightning starts a second process and averages the gradients of the two. The program prints the
accuracy on the validation images, and writes ``last.ckpt``. ``xcit_dense.load_weights`` takes the backbone out of this
file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lightning
import numpy as np
import torch
from PIL import Image
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from xcit_dense import XCiT, load_weights

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the images that the published weights expect
IGNORED = 255


class LabelMaps(Dataset):
    """Images and label maps of one split: ``images/SPLIT/*.jpg`` and ``annotations/SPLIT/*.png``."""

    def __init__(self, root: Path, split: str) -> None:
        self.images = sorted(Path(root, "images", split).glob("*.jpg"))
        self.labels = [Path(root, "annotations", split, f"{image.stem}.png") for image in self.images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(np.array(Image.open(self.images[index]).convert("RGB"))).permute(2, 0, 1) / 255
        image = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]  # (3, H, W)
        values = torch.from_numpy(np.array(Image.open(self.labels[index]))).long()  # (H, W); 0 has no label
        return image, torch.where(values == 0, IGNORED, values - 1)


class Head(nn.Module):
    """Adds the four levels at stride 4 and classifies each position."""

    def __init__(self, channels: tuple[int, ...], classes: int, width: int = 128) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.classify = nn.Sequential(nn.GroupNorm(32, width), nn.ReLU(), nn.Conv2d(width, classes, 1))

    def forward(self, levels: tuple[Tensor, ...]) -> Tensor:
        """Computes logits (B, classes, H / 4, W / 4)."""
        size = levels[0].shape[2:]
        total = sum(
            F.interpolate(lateral(level), size, mode="bilinear") for lateral, level in zip(self.laterals, levels)
        )
        return self.classify(total)


class Segmentor(lightning.LightningModule):
    """XCiT, a small head, and AdamW with a learning rate that decreases from the last block to the first."""

    def __init__(self, variant: str, classes: int, lr: float, weights: str | None = None) -> None:
        super().__init__()
        self.backbone = XCiT(variant, drop_path_rate=0.1)  # its batch norms are synchronised between GPUs
        if weights:
            load_weights(self.backbone, weights)
        self.head = Head(self.backbone.out_channels, classes)
        self.lr = lr

    def forward(self, images: Tensor) -> Tensor:
        """Computes logits (B, classes, H, W)."""
        return F.interpolate(self.head(self.backbone(images)), images.shape[2:], mode="bilinear")

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Computes the loss of a batch."""
        images, labels = batch
        loss = F.cross_entropy(self(images), labels, ignore_index=IGNORED)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Logs the share of pixels with the right class."""
        images, labels = batch
        right = (self(images).argmax(dim=1) == labels)[labels != IGNORED]
        self.log("accuracy", right.float().mean(), prog_bar=True, sync_dist=True, batch_size=len(images))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Gives each depth of the backbone its own learning rate."""
        groups = param_groups_layer_decay(self.backbone, weight_decay=0.05, layer_decay=0.75)
        for group in groups:
            group["lr"] = self.lr * group["lr_scale"]
        return torch.optim.AdamW([*groups, {"params": self.head.parameters()}], lr=self.lr)


def main() -> None:
    """Trains and writes ``last.ckpt``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DIR")
    parser.add_argument("--classes", type=int, default=5, help="default %(default)s, as in the embedded data set")
    parser.add_argument("--variant", default="small_12_p16", help="default %(default)s")
    parser.add_argument("--weights", help="weights of the backbone; by default random")
    parser.add_argument("--epochs", type=int, default=12, help="default %(default)s")
    parser.add_argument("--batch", type=int, default=8, help="images of each process; default %(default)s")
    parser.add_argument("--lr", type=float, default=5e-4, help="default %(default)s")
    parser.add_argument("--devices", type=int, default=1, help="processes; default %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="loaders of each process; default %(default)s")
    parser.add_argument("--accelerator", default="auto", help="cpu, gpu or auto; default %(default)s")
    parser.add_argument("--precision", default="32-true", help="bf16-mixed for bfloat16; default %(default)s")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/lightning"), help="default %(default)s")
    args = parser.parse_args()

    lightning.seed_everything(0)
    options = {"num_workers": args.workers, "persistent_workers": args.workers > 0}
    train = DataLoader(LabelMaps(args.data, "training"), args.batch, shuffle=True, drop_last=True, **options)
    val = DataLoader(LabelMaps(args.data, "validation"), args.batch, **options)
    trainer = lightning.Trainer(
        accelerator=args.accelerator,
        devices=args.devices,
        strategy="ddp" if args.devices > 1 else "auto",
        precision=args.precision,
        max_epochs=args.epochs,
        log_every_n_steps=1,
        default_root_dir=args.out,
        enable_checkpointing=False,
    )
    model = Segmentor(args.variant, args.classes, args.lr, args.weights)
    trainer.fit(model, train, val)
    trainer.save_checkpoint(args.out / "last.ckpt", weights_only=True)
    trainer.print(f"accuracy {trainer.callback_metrics['accuracy']:.3f}")


if __name__ == "__main__":
    main()
