"""Writes the files next to this script with the code of revision 820f79a; README.md shows the commands."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

CONFIG = "mask_rcnn_xcit_n12_p8_shapes"
OPTIONS = {
    "model.backbone.variant": "None",
    "model.backbone.patch_size": "8",
    "model.backbone.embed_dim": "8",
    "model.backbone.depth": "4",
    "model.backbone.num_heads": "2",
    "model.backbone.out_indices": "(0,1,2,3)",
    "model.neck.in_channels": "[8,8,8,8]",
    "model.neck.out_channels": "8",
    "model.rpn_head.in_channels": "8",
    "model.rpn_head.feat_channels": "8",
    "model.roi_head.bbox_roi_extractor.out_channels": "8",
    "model.roi_head.bbox_head.in_channels": "8",
    "model.roi_head.bbox_head.fc_out_channels": "8",
    "model.roi_head.mask_roi_extractor.out_channels": "8",
    "model.roi_head.mask_head.in_channels": "8",
    "model.roi_head.mask_head.conv_out_channels": "8",
    "model.roi_head.mask_head.num_convs": "1",
    "train_cfg.max_iters": "12",
    "train_cfg.val_interval": "12",
    "default_hooks.checkpoint.interval": "100",
    "default_hooks.logger.interval": "1",
    "randomness.seed": "0",
}


def train(shapes: Path, work_dir: Path) -> subprocess.Popen[bytes]:
    """Starts a training in the directory of the old code."""
    options = [f"{name}={value}" for name, value in OPTIONS.items()]
    paths = ["--data-root", shapes, "--work-dir", work_dir, "--device", "cpu"]
    command = ["tools/train.py", f"configs/detection/{CONFIG}.py", *paths, "--cfg-options", *options]
    return subprocess.Popen([sys.executable, *map(str, command)])


def logged(work_dir: Path) -> list[dict[str, float]]:
    """Reads the lines that a training has logged so far."""
    return [json.loads(line) for path in work_dir.glob("*/vis_data/scalars.json") for line in path.open()]


def main() -> None:
    """Writes the interrupted run, the losses of the uninterrupted run, the checkpoint and its features."""
    here = Path(__file__).parent
    temporary = Path(sys.argv[1]).resolve()
    shapes, full, stopped = (temporary / name for name in ("shapes", "full", "stopped"))
    sizes = ["--train", "6", "--val", "2", "--size", "64"]
    subprocess.run([sys.executable, "tools/make_shapes.py", shapes, *sizes], check=True)

    assert train(shapes, full).wait() == 0
    losses = [record["loss"] for record in logged(full) if "loss" in record]
    (here / "losses.json").write_text(json.dumps(losses, indent=1) + "\n")

    process = train(shapes, stopped)
    while len(logged(stopped)) < 5:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)  # the training finishes its step, writes a checkpoint and ends
    process.wait()
    work_dir = here / "work_dir"
    shutil.rmtree(work_dir, ignore_errors=True)
    for path in (*stopped.glob("*.pth"), *stopped.glob("*.py"), *stopped.glob("*/vis_data/scalars.json")):
        target = work_dir / path.relative_to(stopped)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copy(stopped / "last_checkpoint", work_dir)

    from xcit_dense import XCiT, load_weights

    weights = here / "backbone.safetensors"
    subprocess.run([sys.executable, "tools/convert_checkpoint.py", full / "iter_12.pth", weights], check=True)
    backbone = XCiT(patch_size=8, embed_dim=8, depth=4, num_heads=2, out_indices=(0, 1, 2, 3)).eval()
    load_weights(backbone, weights)
    images = torch.linspace(-2, 2, 3 * 32 * 40).sin().reshape(1, 3, 32, 40)
    with torch.no_grad():
        levels = backbone(images)
    features = [level.flatten().tolist() for level in levels]
    (here / "features.json").write_text(json.dumps([[round(x, 7) for x in level] for level in features]) + "\n")


if __name__ == "__main__":
    main()
