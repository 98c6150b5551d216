"""docs/troubleshooting.md quotes messages of the libraries. Each test provokes a message and finds it on the page."""

import contextlib
import importlib
import importlib.util
import os
import re
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from torch import distributed, nn
from torch.utils.data import DataLoader, Dataset

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
import mmcv
import mmdet.registry
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, TRANSFORMS, DefaultScope
from mmengine.runner import BaseLoop, load_state_dict

from xcit_dense.mm.hooks.weight_check import CheckWeightsHook
from xcit_dense.mm.patches import mmcv_ext as operators
from xcit_dense.weights.safe_load import read_file

PAGE = Path(__file__).parents[2] / "docs/troubleshooting.md"
QUOTES = re.findall(r"^> `(.+)`$", PAGE.read_text(), re.MULTILINE)


@pytest.fixture
def scene(tmp_path, monkeypatch, shapes):
    """The fixtures that provoking an error needs."""
    return SimpleNamespace(folder=tmp_path, patch=monkeypatch, shapes=shapes)


# Provocations: each raises the error ---------------------------------------------------------------------------------


def build(registry, scope, kind):
    with DefaultScope.overwrite_default_scope(scope):
        registry.build({"type": kind})


def xcit_unregistered(scene):
    for registry in (mmdet.registry.MODELS, MODELS):
        scene.patch.delitem(registry.module_dict, "XCiT")
    build(mmdet.registry.MODELS, "mmdet", "XCiT")


def custom_import(scene):
    (scene.folder / "config.py").write_text("custom_imports = dict(imports=['not_installed.mm'])")
    Config.fromfile(scene.folder / "config.py")


def without_scope(scene):
    scene.patch.setattr(DefaultScope, "get_current_instance", lambda: None)
    MODELS.build({"type": "MaskRCNN"})


def wrong_scope(scene):
    build(mmdet.registry.MODELS, "mmdet", "EncoderDecoder")


def version(scene):
    if "incompatible" not in Path(mmdet.__file__).read_text():
        pytest.skip("this MMDetection does not check the version of mmcv")
    scene.patch.setattr(mmcv, "__version__", "2.2.0")
    folder = Path(mmdet.__file__).parent
    spec = importlib.util.spec_from_file_location(
        "twin", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    scene.patch.setitem(sys.modules, "twin", importlib.util.module_from_spec(spec))
    spec.loader.exec_module(sys.modules["twin"])


def without_operators(scene):
    if not operators.serving():
        pytest.skip("this mmcv has compiled operators")
    scene.patch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if "xcit" not in str(finder.__module__)])
    scene.patch.delitem(sys.modules, "mmcv._ext", raising=False)
    importlib.import_module("mmcv._ext")


def missing_operator(scene):
    if not operators.serving():
        pytest.skip("this mmcv has compiled operators")
    importlib.import_module("mmcv._ext").min_area_polygons()


@contextlib.contextmanager
def one_process(folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def sync_bn(scene):
    with one_process(scene.folder):
        nn.SyncBatchNorm(2)(torch.ones(2, 2, 2, 2))


def distributed_sync_bn(scene):
    with one_process(scene.folder):
        nn.parallel.DistributedDataParallel(nn.SyncBatchNorm(2))


def without_launcher(scene):
    nn.parallel.DistributedDataParallel(nn.Linear(2, 2))


def other_weights(scene):
    load_state_dict(nn.Linear(2, 3), {"weight": torch.ones(5, 2), "head.bias": torch.ones(2)}, strict=True)


def part_of_the_weights(scene):
    runner = SimpleNamespace(
        model=nn.Linear(2, 3), _resume=False, _load_from="a.pth", _test_loop=mock.Mock(BaseLoop), _val_loop=None
    )
    runner._train_loop = None
    hook = CheckWeightsHook()
    hook.after_load_checkpoint(runner, {"state_dict": {"weight": torch.ones(3, 2)}})
    load_state_dict(runner.model, {"weight": torch.ones(3, 2)})
    hook.before_test(runner)


class Harmless:
    """An object in a checkpoint."""


def save_object(scene):
    torch.save({"state_dict": {}, "meta": Harmless()}, scene.folder / "a.pth")
    return scene.folder / "a.pth"


def numpy_abi(scene):
    if int(np.__version__.partition(".")[0]) < 2:
        pytest.skip("this is NumPy 1")
    importlib.import_module("numpy.core._multiarray_umath")._ARRAY_API  # noqa: B018


def without_images(scene):
    with DefaultScope.overwrite_default_scope("mmdet"):
        DATASETS.build(
            {
                "type": "mmdet.CocoDataset",
                "ann_file": str(scene.shapes / "annotations/instances_val2017.json"),
                "data_prefix": {"img": "val2017"},
                "metainfo": {"classes": ("zebra",)},
                "filter_cfg": {"filter_empty_gt": True},
                "pipeline": [],
            }
        )


def without_annotations(scene):
    with DefaultScope.overwrite_default_scope("mmdet"):
        DATASETS.build({"type": "mmdet.CocoDataset", "ann_file": "gone.json", "pipeline": []})


def without_image(scene):
    TRANSFORMS.build({"type": "LoadCheckedImage"})({"img_path": str(scene.folder / "gone.jpg")})


def high_label(scene):
    nn.functional.cross_entropy(torch.ones(1, 3), torch.tensor([5]))


def cuda_memory(scene):
    if torch.cuda.is_available():
        torch.empty(1 << 50, device="cuda")
    library = Path(torch.__file__).parent / "lib/libc10_cuda.so"
    if not library.is_file():
        pytest.skip("this torch has no CUDA")
    raise MemoryError(library.read_bytes().decode("latin-1"))


class Dying(Dataset):
    """Data whose reader is killed as the kernel does it when shared memory is full."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGBUS)


def shared_memory(scene):
    list(DataLoader(Dying(), num_workers=1))


PROVOKED = {
    "XCiT is not in the mmdet::model registry": xcit_unregistered,
    "Failed to import custom modules from": custom_import,
    "MaskRCNN is not in the mmengine::model registry": without_scope,
    "EncoderDecoder is not in the mmdet::model registry": wrong_scope,
    "is used but incompatible. Please install mmcv>=2.0.0rc4": version,
    "No module named 'mmcv._ext'": without_operators,
    "which replaces mmcv._ext because this mmcv has no compiled operators": missing_operator,
    "SyncBatchNorm expected input tensor to be on GPU": sync_bn,
    "SyncBatchNorm layers only work with GPU modules": distributed_sync_bn,
    "Default process group has not been initialized": without_launcher,
    "The model and loaded state dict do not match exactly": other_weights,
    "size mismatch for": other_weights,
    "missing keys in source state_dict": other_weights,
    "unexpected key in source state_dict": other_weights,
    "these weights do not fill the model of the config": part_of_the_weights,
    "Weights only load failed": lambda scene: torch.load(save_object(scene)),
    "holds more than weights": lambda scene: read_file(save_object(scene)),
    "A module that was compiled using NumPy 1.x cannot be run in": numpy_abi,
    "module 'numpy' has no attribute 'float'": lambda scene: np.float,
    "module 'numpy' has no attribute 'int'": lambda scene: np.int,
    "need at least one array to concatenate": without_images,
    "No such file or directory": without_annotations,
    "there is no such file": without_image,
    "is out of bounds": high_label,
    "CUDA out of memory. Tried to allocate": cuda_memory,
    "This might be caused by insufficient shared memory (shm)": shared_memory,
}


@pytest.mark.parametrize("quote", QUOTES)
def test_the_page_quotes_the_message(scene, quote, capfd):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        PROVOKED[quote](scene)
    assert quote in str(caught.value) + capfd.readouterr().err


def test_the_page_has_the_ten_most_frequent_errors_and_each_message_once():
    headings = re.findall(r"^## (\d+)\. (.+)$", PAGE.read_text(), re.MULTILINE)
    names = "Registry, Scope, Version, Operators, SyncBN, Checkpoint, weights_only, NumPy, Data layout, Memory"
    assert headings == [(str(number), name) for number, name in enumerate(names.split(", "), start=1)]
    assert len(QUOTES) == len(set(QUOTES))
    assert set(QUOTES) == set(PROVOKED)
