"""Libraries and operators that a config needs and that are missing are named before the run."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="MMDetection is not installed")

from tests.helpers.models import raises_user_error
from xcit_dense.errors import MissingLibraryError
from xcit_dense.mm.config import requirements
from xcit_dense.mm.config.load import load_config
from xcit_dense.mm.config.requirements import check_requirements
from xcit_dense.mm.patches import mmcv_ext

SHAPES = Path(__file__).parents[3] / "configs/detection/mask_rcnn_xcit_n12_p8_shapes.py"
LOADERS = ("train_dataloader", "val_dataloader")


@pytest.fixture
def without(monkeypatch):
    """Makes optional libraries missing, installed or not."""
    find = importlib.util.find_spec
    optional = {"sklearn", "lvis", "transformers", "albumentations", "cityscapesscripts", "wandb"}
    monkeypatch.setattr(requirements, "find_spec", lambda name: None if name in optional else find(name))


def check(loaders=LOADERS, **options):
    """Checks a config of ours with some parts of other configs."""
    config = load_config(SHAPES)
    config.merge_from_dict({name.replace("__", "."): value for name, value in options.items()})
    check_requirements(config, loaders)


@pytest.mark.parametrize(
    ("options", "needed", "package"),
    [
        ({"model__bbox_head": {"type": "PAAHead"}}, "PAAHead, which needs sklearn", "scikit-learn"),
        ({"model__bbox_head": {"type": "mmdet.LADHead"}}, "LADHead, which needs sklearn", "scikit-learn"),
        ({"model__language_model": {"type": "BertModel"}}, "BertModel, which needs transformers", "transformers"),
        ({"val_evaluator__type": "LVISMetric"}, "LVISMetric, which needs lvis", "lvis"),
        ({"train_dataloader__dataset__type": "LVISV1Dataset"}, "LVISV1Dataset, which needs lvis", "lvis"),
        (
            {"train_dataloader__dataset__pipeline": [{"type": "Albu"}]},
            "Albu, which needs albumentations",
            "albumentations",
        ),
        ({"visualizer__vis_backends": [{"type": "WandbVisBackend"}]}, "WandbVisBackend, which needs wandb", "wandb"),
    ],
)
def test_a_missing_library_is_named_with_the_part_that_needs_it(without, options, needed, package):
    with pytest.raises(MissingLibraryError, match=f"{needed}, .*pip install {package}"):
        check(**options)


def test_parts_that_the_run_does_not_use_need_nothing(without):
    check(loaders=("train_dataloader",), val_evaluator__type="LVISMetric")
    check(loaders=(), train_dataloader__dataset__type="LVISV1Dataset")


def test_an_installed_library_passes(monkeypatch):
    monkeypatch.setattr(requirements, "find_spec", lambda name: "installed")
    check(model__bbox_head={"type": "PAAHead"})


needs_stand_in = pytest.mark.skipif(not mmcv_ext.serving(), reason="mmcv has compiled operators")


@needs_stand_in
def test_a_part_whose_operator_nobody_serves_is_named():
    layer = {"type": "PrRoIPool", "output_size": 7}
    with raises_user_error("PrRoIPool", "operator prroi_pool_forward", "install an mmcv with compiled operators"):
        check(model__roi_head__bbox_roi_extractor__roi_layer={**layer, "_delete_": True})


@needs_stand_in
@pytest.mark.parametrize("name", ["RoIPool", "RoIAlign", "DeformRoIPool", "ModulatedDeformRoIPoolPack"])
def test_a_part_whose_operator_is_served_passes(name):
    check(model__roi_head__bbox_roi_extractor__roi_layer={"type": name, "_delete_": True})


@needs_stand_in
def test_a_convolution_of_mmcv_passes():
    check(model__neck__conv_cfg={"type": "DCNv2"})
