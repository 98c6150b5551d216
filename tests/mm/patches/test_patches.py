"""The patches as a group: listed, applied by one call, and harmless when modules are reloaded."""

import re
from pathlib import Path

import pytest

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmengine.runner import CheckpointLoader

import xcit_dense.mm

ROOT = Path(__file__).parents[3]
FOLDER = Path(xcit_dense.mm.__file__).parent / "patches"

RELOAD_ALL = """
import importlib, pkgutil, sys
import torch
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint
import xcit_dense.mm
from xcit_dense.mm.config.load import load_config

names = [module.name for module in pkgutil.walk_packages(xcit_dense.mm.__path__, "xcit_dense.mm.")]
assert "xcit_dense.mm.patches.checkpoint_loaders" in names
for _ in range(2):
    for name in ["xcit_dense.mm", *names]:
        importlib.reload(importlib.import_module(name))

backbone = MODELS.build(load_config(sys.argv[1]).model.backbone)
torch.save({"state_dict": backbone.state_dict()}, sys.argv[2])
load_checkpoint(backbone, sys.argv[2])
added = [finder.origin for finder in sys.meta_path if "xcit_dense" in getattr(finder, "origin", "")]
assert len(added) == len(set(added)) == 2  # mmcv's operators and panopticapi
print("works")
"""


def test_every_module_of_mm_can_be_reloaded_and_checkpoints_and_configs_still_work(python, tmp_path):
    config = ROOT / "configs/detection/mask_rcnn_xcit_n12_p8_shapes.py"
    assert python("-c", RELOAD_ALL, config, tmp_path / "a.pth").stdout.split()[-1] == "works"


def test_the_table_in_the_docs_has_one_row_for_each_patch():
    text = (ROOT / "docs/architecture.md").read_text()
    section = text.split("## Patches\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)\.py` \|", section, re.MULTILINE)
    assert sorted(rows) == sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


def test_the_patches_can_be_applied_twice():
    xcit_dense.mm.patches.apply()
    once = dict(CheckpointLoader._schemes)
    xcit_dense.mm.patches.apply()
    assert once == CheckpointLoader._schemes
