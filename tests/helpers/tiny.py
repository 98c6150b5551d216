"""Tiny detectors and segmentors of the MM libraries with random weights, for the shapes data set."""

import importlib
from pathlib import Path

import torch

from tests.helpers.models import randomise

CONFIGS = Path(__file__).parents[2] / "configs"
TASKS = {"detection": "mask_rcnn", "segmentation": "sem_fpn"}
BACKBONE = {"type": "XCiT", "patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2, "out_indices": (0, 1, 2, 3)}


def tiny_config(task, head=None):
    """Reads the config of a tiny model. A detector finds five objects in every image."""
    import xcit_dense.mm  # noqa: F401  # isort: skip
    from xcit_dense.mm.config.load import load_config

    head = head or TASKS[task]
    config = load_config(CONFIGS / task / f"{head}_xcit_n12_p8_shapes.py")
    model, test = config.model, config.model.test_cfg
    model.backbone = dict(BACKBONE)
    if head == "upernet":
        model.decode_head.in_channels, model.auxiliary_head.in_channels = [16] * 4, 16
    elif model.get("neck"):
        model.neck.in_channels = [16] * len(model.neck.in_channels)
    if head in ("retinanet", "rtmdet"):
        model.backbone |= {"out_strides": (8, 16, 32), "out_indices": (1, 2, 3)}
    for pipeline in (config.test_dataloader.dataset.pipeline, config.test_pipeline):
        pipeline[1].scale = (48, 48)
    if task == "detection" and head != "dino":
        test.get("rcnn", test).update(score_thr=0.0, max_per_img=5)
    return config


def save_tiny(config, path, **meta):
    """Saves a checkpoint of a config's model, with random weights and the names of the classes.

    Args:
        config: The config.
        path: The file.
        **meta: Further entries of the checkpoint's ``meta``.
    """
    from mmengine.registry import init_default_scope

    init_default_scope(config.default_scope)
    model = importlib.import_module(f"{config.default_scope}.registry").MODELS.build(config.model)
    meta = {"dataset_meta": dict(config.test_dataloader.dataset.metainfo), "iter": 4, "time": "20260101", **meta}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": randomise(model).state_dict(), "meta": meta, "message_hub": {}}, path)


def write_work_dir(task, directory):
    """Writes the work directory of a training of a tiny model: the config and a checkpoint."""
    config = tiny_config(task)
    save_tiny(config, directory / "iter_4.pth")
    config.dump(directory / f"{TASKS[task]}.py")
    return directory
