"""Tiny detectors and segmentors of the MM libraries with random weights, for the shapes data set."""

import importlib
from pathlib import Path

import torch

from tests.helpers.models import randomise

CONFIGS = Path(__file__).parents[2] / "configs"
TASKS = {"detection": "mask_rcnn", "segmentation": "sem_fpn"}
BACKBONE = {"type": "XCiT", "patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2, "out_indices": (0, 1, 2, 3)}


def tiny_config(task):
    """Reads the config of a tiny model. The detector finds five objects in every image."""
    import xcit_dense.mm  # noqa: F401  # isort: skip
    from xcit_dense.mm.config.load import load_config

    path = CONFIGS / task / f"{TASKS[task]}_xcit_n12_p8_shapes.py"
    config = load_config(path, {"model.neck.in_channels": [16] * 4})
    config.model.backbone = BACKBONE
    for pipeline in (config.test_dataloader.dataset.pipeline, config.test_pipeline):
        pipeline[1].scale = (48, 48)
    if task == "detection":
        config.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=5)
    return config


def save_tiny(config, path):
    """Saves a checkpoint of a config's model, with random weights and the names of the classes."""
    from mmengine.registry import init_default_scope

    init_default_scope(config.default_scope)
    model = importlib.import_module(f"{config.default_scope}.registry").MODELS.build(config.model)
    meta = {"dataset_meta": dict(config.test_dataloader.dataset.metainfo), "iter": 4, "time": "20260101"}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": randomise(model).state_dict(), "meta": meta, "message_hub": {}}, path)


def write_work_dir(task, directory):
    """Writes the work directory of a training of a tiny model: the config and a checkpoint."""
    config = tiny_config(task)
    save_tiny(config, directory / "iter_4.pth")
    config.dump(directory / f"{TASKS[task]}.py")
    return directory
