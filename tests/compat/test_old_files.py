"""Files of revision 820f79a: today's code loads its checkpoint, resumes its run and knows its registry names."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.helpers.runs import read_training_log
from xcit_dense import XCiT, load_weights

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

REGISTERED = {
    "HOOKS": [
        "CheckWeightsHook",
        "DeployHook",
        "LearningCurveHook",
        "PicturesHook",
        "ProgressHook",
        "ReproducibleHook",
        "ShortHistoryHook",
        "WholeCheckpointHook",
    ],
    "MODELS": ["XCiT"],
    "OPTIM_WRAPPERS": ["AutoAmpOptimWrapper"],
    "OPTIM_WRAPPER_CONSTRUCTORS": ["XCiTLayerDecay"],
    "STRATEGIES": ["XCiTFSDPStrategy"],
    "FUNCTIONS": ["is_xca_block", "shard_xca_blocks"],
    "TRANSFORMS": ["LoadImageFromFile"],
}
"""Every name that the old code registered. Configs that a run has dumped contain these names."""


def test_an_old_checkpoint_gives_the_old_features():
    backbone = XCiT(patch_size=8, embed_dim=8, depth=4, num_heads=2, out_indices=(0, 1, 2, 3)).eval()
    load_weights(backbone, HERE / "backbone.safetensors")
    images = torch.linspace(-2, 2, 3 * 32 * 40).sin().reshape(1, 3, 32, 40)
    with torch.no_grad():
        levels = backbone(images)
    expected = json.loads((HERE / "features.json").read_text())
    assert len(levels) == len(expected)
    for level, values in zip(levels, expected):
        torch.testing.assert_close(level.flatten(), torch.tensor(values), rtol=0, atol=1e-5)


@pytest.mark.parametrize("registry", REGISTERED)
def test_old_registry_names_stay_registered(registry):
    registries = pytest.importorskip("mmengine.registry", reason="MMEngine is not installed")
    pytest.importorskip("mmcv", reason="mmcv is not installed")
    import xcit_dense.mm  # noqa: F401

    registered = getattr(registries, registry)
    assert [name for name in REGISTERED[registry] if registered.get(name) is None] == []


@pytest.mark.slow
def test_an_old_run_resumes_with_the_losses_of_a_run_without_a_stop(python, tmp_path):
    pytest.importorskip("mmdet", reason="MMDetection is not installed")
    pytest.importorskip("shapely", reason="the shapes data set needs shapely")
    from xcit_dense.datasets.shapes import write_shapes

    shapes = write_shapes(tmp_path / "shapes", train=6, val=2, size=64)
    work_dir = tmp_path / "work_dir"
    shutil.copytree(HERE / "work_dir", work_dir)
    (config,) = work_dir.glob("*.py")
    assert "WholeCheckpointHook" in config.read_text(), "the config is one that the old code dumped"
    options = ["--resume", "--data-root", shapes, "--work-dir", work_dir, "--device", "cpu"]
    python(ROOT / "tools/train.py", config, *options)
    assert (work_dir / "iter_12.pth").is_file()
    losses = [record["loss"] for record in read_training_log(work_dir)]
    # A different CPU or PyTorch sums in another order. In 12 iterations such differences stay below 0.1 %.
    assert losses == pytest.approx(json.loads((HERE / "losses.json").read_text()), rel=1e-3)
