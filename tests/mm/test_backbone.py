"""MMDetection and MMSegmentation build XCiT by its name, and it starts from published weights."""

import importlib
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint

import xcit_dense
import xcit_dense.mm
from tests.helpers.marks import MATRIX
from tests.helpers.models import matching_names, raises_user_error
from xcit_dense.errors import MissingLibraryError
from xcit_dense.mm.distributed import resolve_once
from xcit_dense.models.state_dict import STEM

LIBRARIES = ["mmdet", "mmseg"]
CONFIG = Path(__file__).parents[2] / "configs/detection/mask_rcnn_xcit_n12_p8_shapes.py"
NANO = {"type": "XCiT", "variant": "nano_12_p16"}
PYRAMID = ("fpn1.", "fpn2.", "fpn3.", "fpn4.")


def models(library):
    pytest.importorskip(library, reason=f"{library} is not installed")
    return importlib.import_module(f"{library}.registry").MODELS


def build(**changes):
    return models("mmdet").build({**NANO, **changes})


def pretrained(checkpoint, **more):
    return {"type": "Pretrained", "checkpoint": str(checkpoint), **more}


def trunk(weights):
    """Names of the weights that a dense backbone takes from a classifier."""
    return {name for name in weights if not name.startswith(("cls_token", "cls_attn_blocks.", "norm.", "head."))}


def detector(**backbone):
    """Makes the small Mask R-CNN with a backbone of patch size 16."""
    config = Config.fromfile(CONFIG)
    config.model.backbone.update(NANO, **backbone)
    with DefaultScope.overwrite_default_scope("mmdet"):
        return models("mmdet").build(config.model)


@pytest.fixture
def classifier(published, tmp_path):
    """A classifier's file as published, and the weights in it."""
    weights = published("classifier")
    torch.save({"model": weights}, tmp_path / "classifier.pth")
    return tmp_path / "classifier.pth", weights


# Registration


@pytest.mark.parametrize("name", ["XCiT", "{}.XCiT"], ids=["bare", "scoped"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_each_library_builds_it_by_name(library, name):
    backbone = models(library).build({**NANO, "type": name.format(library)})
    assert isinstance(backbone, xcit_dense.XCiT)
    assert isinstance(backbone, importlib.import_module("mmengine.model").BaseModule)
    assert backbone.embed_dim == 128


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_config_finds_it_in_its_default_scope(library):
    registry = models(library)
    with DefaultScope.overwrite_default_scope(library):
        assert isinstance(registry.build(NANO), xcit_dense.XCiT)


def test_a_scope_names_the_other_library():
    models("mmdet")
    assert isinstance(models("mmseg").build({**NANO, "type": "mmdet.XCiT"}), xcit_dense.XCiT)


def test_both_libraries_build_one_class():
    assert models("mmdet").get("XCiT") is models("mmseg").get("XCiT")


def test_reloading_registers_the_backbone_again():
    importlib.reload(xcit_dense.mm)
    module = importlib.reload(xcit_dense.mm.backbone)
    for library in LIBRARIES:
        assert models(library).get("XCiT") is module.XCiT


def test_the_published_hyper_parameters_build_a_backbone_that_runs():
    backbone = build(type="XCiT", variant=None, patch_size=16, embed_dim=128, depth=12, num_heads=4).eval()
    with torch.no_grad():
        assert [level.shape for level in backbone(torch.zeros(1, 3, 32, 64))] == [
            (1, 128, 32 // stride, 64 // stride) for stride in backbone.out_strides
        ]


def test_a_wrong_name_is_refused_with_the_right_one():
    with raises_user_error("nano_12_p15", "nano_12_p16"):
        build(variant="nano_12_p15")


@pytest.mark.slow
@pytest.mark.parametrize(("present", "absent"), [LIBRARIES, pytest.param(*LIBRARIES[::-1], marks=MATRIX)])
def test_one_library_is_enough(python, without, present, absent):
    models(present)
    process = python(
        "-c",
        "import importlib.util, sys, xcit_dense.mm\n"
        f"from {present}.registry import MODELS\n"
        f"print(type(MODELS.build({NANO})).__name__, importlib.util.find_spec({absent!r}), {absent!r} in sys.modules)",
        **without(absent),
    )
    assert process.stdout.split() == ["XCiT", "None", "False"]


def test_without_mm_libraries_the_package_works_and_mm_names_the_command_to_install_them(python, without):
    process = python(
        "-c",
        "import xcit_dense\n"
        "xcit_dense.XCiT('nano_12_p16')\n"
        "try:\n    import xcit_dense.mm\n"
        "except ImportError as error:\n    print(type(error).__name__, error)",
        **without("mmengine", "mmcv", *LIBRARIES),
    )
    assert process.stdout.startswith(MissingLibraryError.__name__)
    assert 'pip install "xcit-dense[mm]"' in process.stdout


# Initialisation


def test_loading_a_classifier_into_a_detector_warns_once_of_its_pyramid(classifier, mm_log):
    path, weights = classifier
    torch.save({f"backbone.{name}": value for name, value in weights.items()}, path)
    model = torch.nn.ModuleDict({"backbone": build()})
    for _ in range(2):  # as with the check of the weights
        load_checkpoint(model, str(path))
    (line,) = [line for line in mm_log().splitlines() if "of the pyramid" in line]
    assert "WARNING" in line
    assert "not in the file, which stay as initialised" in line


def test_a_published_classifier_fills_all_but_the_pyramid(classifier):
    path, weights = classifier
    backbone = build(init_cfg=pretrained(path))
    pyramid = {name: value.clone() for name, value in backbone.state_dict().items() if name.startswith(PYRAMID)}
    backbone.init_weights()
    assert matching_names(backbone, weights) == trunk(weights)
    assert matching_names(backbone, pyramid) == set(pyramid)
    assert trunk(weights) | set(pyramid) == set(backbone.state_dict())


def test_a_detector_starts_its_backbone_from_a_classifier(classifier):
    path, weights = classifier
    model = detector(init_cfg=pretrained(path))
    neck = {name: value.clone() for name, value in model.neck.state_dict().items()}
    model.init_weights()
    assert matching_names(model.backbone, weights) == trunk(weights)
    assert not any(name.endswith("conv.weight") for name in matching_names(model.neck, neck)), (
        "the neck was not initialised"
    )


def test_the_log_reports_what_was_loaded(classifier, mm_log):
    path, weights = classifier
    build(init_cfg=pretrained(path)).init_weights()
    assert f"XCiT starts from {path}: {len(trunk(weights))} entries of the backbone" in mm_log()
    assert f"{len(weights) - len(trunk(weights))} of the classifier left out" in mm_log()
    assert "of the pyramid not in the file, which stay as initialised" in mm_log()
    assert mm_log().count("of the pyramid") == 1


def test_a_backbone_for_other_channels_starts_from_an_adapted_stem(classifier, mm_log):
    path, weights = classifier
    backbone = build(init_cfg=pretrained(path), in_channels=4)
    backbone.init_weights()
    assert trunk(weights) - matching_names(backbone, weights) == {STEM}
    assert "the stem's weights for 3 input channels repeated and scaled for 4" in mm_log()


def test_published_weights_are_found_by_name(downloaded):
    backbone = build(init_cfg=pretrained("xcit://nano_12_p16_224"))
    backbone.init_weights()
    assert matching_names(backbone, downloaded) == trunk(downloaded)


def test_published_weights_are_found_by_a_name_without_a_scheme(downloaded):
    assert resolve_once("nano_12_p16_224").is_file()
    backbone = build(init_cfg=pretrained("nano_12_p16_224"))
    backbone.init_weights()
    assert matching_names(backbone, downloaded) == trunk(downloaded)


def test_an_unknown_published_name_is_refused_with_the_nearest():
    with raises_user_error("nano_12_p16_225", "nano_12_p16_224"):
        build(init_cfg=pretrained("xcit://nano_12_p16_225")).init_weights()


def test_another_variants_file_is_refused_by_both_names(classifier):
    path, _ = classifier
    with raises_user_error(path, "nano_12_p16", "nano_12_p8"):
        detector(variant="nano_12_p8", init_cfg=pretrained(path)).init_weights()


def test_a_missing_file_is_refused(tmp_path):
    with raises_user_error(tmp_path / "gone.pth"):
        build(init_cfg=pretrained(tmp_path / "gone.pth")).init_weights()


@pytest.mark.parametrize("more", [{}, {"prefix": "backbone."}], ids=["whole", "by prefix"])
def test_a_backbone_starts_from_a_detectors_file(published, tmp_path, more):
    weights = published("dense")
    torch.save({"state_dict": {f"backbone.{name}": value for name, value in weights.items()}}, tmp_path / "a.pth")
    backbone = build(init_cfg=pretrained(tmp_path / "a.pth", **more))
    backbone.init_weights()
    assert matching_names(backbone, weights) == set(weights)


def test_weights_are_initialised_once(classifier):
    path, _ = classifier
    backbone = build(init_cfg=pretrained(path))
    backbone.init_weights()
    trained = {name: value.add_(1).clone() for name, value in backbone.state_dict().items() if "gamma" in name}
    backbone.init_weights()
    assert matching_names(backbone, trained) == set(trained)


def test_without_init_cfg_it_keeps_its_own_initialisation():
    backbone = build(init_cfg=None)
    own = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone.init_weights()
    assert matching_names(backbone, own) == set(own)
    assert backbone.is_init


def test_other_initialisations_of_the_libraries_apply():
    backbone = build(init_cfg={"type": "Constant", "layer": "Linear", "val": 0.5})
    backbone.init_weights()
    assert (backbone.blocks[0].mlp.fc1.weight == 0.5).all()


def test_a_published_detectors_checkpoint_loads_under_its_prefix(published, tmp_path):
    model = detector()
    weights = {f"backbone.{name}": value for name, value in published("dense").items()}
    torch.save({"state_dict": weights, "meta": {}}, tmp_path / "detector.pth")
    load_checkpoint(model, str(tmp_path / "detector.pth"), map_location="cpu")
    assert matching_names(model, weights) == set(weights)


def test_a_detectors_checkpoint_of_another_variant_is_refused(published, tmp_path):
    weights = {f"backbone.{name}": value for name, value in published("dense").items()}
    torch.save({"state_dict": weights}, tmp_path / "detector.pth")
    with raises_user_error("nano_12_p16", "nano_12_p8"):
        load_checkpoint(detector(variant="nano_12_p8"), str(tmp_path / "detector.pth"), map_location="cpu")


# CoaT


COAT = {"type": "CoaT", "embed_dims": (8, 16, 16, 16), "serial_depths": (1, 1, 1, 1), "parallel_depth": 1}


@pytest.mark.parametrize("library", LIBRARIES)
def test_each_library_builds_coat_by_name(library, tmp_path):
    trained = models(library).build(COAT)
    assert isinstance(trained, xcit_dense.CoaT)
    torch.save(trained.state_dict(), tmp_path / "coat.pth")
    backbone = models(library).build({**COAT, "init_cfg": pretrained(tmp_path / "coat.pth")})
    backbone.init_weights()
    assert matching_names(backbone, trained.state_dict()) == trained.state_dict().keys()
    with raises_user_error("argument of CoaT", "drop_path", "drop_path_rate"):
        models(library).build({**COAT, "drop_path": 0.1})


def test_a_detector_with_coat_gives_each_parameter_a_group_and_a_gradient():
    config = Config.fromfile(CONFIG)
    config.model.backbone = {**COAT, "with_cp": True}
    config.model.neck.in_channels = [8, 16, 16, 16]
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = models("mmdet").build(config.model)
    parameters = {"layer_decay": 0.5, "norm_decay_mult": 0.0}
    optimizer = {"type": "AdamW", "lr": 1.0, "weight_decay": 0.05}
    wrapper = build_optim_wrapper(
        model, {"constructor": "XCiTLayerDecay", "optimizer": optimizer, "paramwise_cfg": parameters}
    )
    rates = {group["params"][0]: group["lr"] for group in wrapper.optimizer.param_groups}
    own = dict(model.backbone.named_parameters())
    assert rates[own["parallel_blocks.0.mlp2.fc1.weight"]] == 0.5
    assert rates[own["cpe4.proj.weight"]] == rates[own["serial_blocks4.0.mlp.fc1.weight"]] == 0.5**2
    assert rates[own["patch_embed1.proj.weight"]] == 0.5**6
    sum(level.mean() for level in model.neck(model.backbone.train()(torch.rand(1, 3, 64, 96)))).backward()
    assert [name for name, parameter in own.items() if parameter.grad is None] == []
