"""MMDetection and MMSegmentation build VT-FPN by its name, and the paper's FPN is the FPN of MMDetection."""

import importlib
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
import xcit_dense.mm
from tests.helpers.models import matching_names, raises_user_error
from xcit_dense.models import vt_fpn

LIBRARIES = ["mmdet", "mmseg"]
NECK = {"type": "VTFPN", "in_channels": [8, 8], "out_channels": 16, "token_channels": 32}


def models(library):
    pytest.importorskip(library, reason=f"{library} is not installed")
    return importlib.import_module(f"{library}.registry").MODELS


@pytest.mark.parametrize("name", ["VTFPN", "{}.VTFPN"], ids=["bare", "scoped"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_each_library_builds_it_by_name(library, name):
    neck = models(library).build({**NECK, "type": name.format(library)})
    assert isinstance(neck, vt_fpn.VTFPN)
    assert isinstance(neck, importlib.import_module("mmengine.model").BaseModule)


def test_reloading_registers_the_neck_again():
    module = importlib.reload(xcit_dense.mm.necks)
    for library in LIBRARIES:
        assert models(library).get("VTFPN") is module.VTFPN


def test_without_init_cfg_the_neck_keeps_its_own_initialisation():
    neck = models("mmdet").build(NECK)
    own = {name: value.clone() for name, value in neck.state_dict().items()}
    neck.init_weights()
    assert matching_names(neck, own) == set(own)


def test_an_init_cfg_applies():
    neck = models("mmdet").build({**NECK, "init_cfg": {"type": "Constant", "layer": "Linear", "val": 0.5}})
    neck.init_weights()
    assert (neck.tokenizers[0].expand.weight == 0.5).all()


def test_an_argument_of_the_fpn_that_the_neck_does_not_have_is_refused():
    with raises_user_error("argument of VTFPN", "start_level", "num_outs"):
        models("mmdet").build({**NECK, "start_level": 1})


@pytest.mark.parametrize(("size", "billions"), [((800, 1216), 55.1), ((473, 473), 12.8)])
def test_the_fpn_has_the_flops_that_the_paper_of_vt_fpn_states(size, billions):
    necks = pytest.importorskip("mmdet.models.necks", reason="mmdet is not installed")
    widths = [256, 512, 1024, 2048]
    neck = necks.FPN(in_channels=widths, out_channels=256, num_outs=4)
    levels = [
        torch.empty(1, width, *(math.ceil(side / stride) for side in size), device="meta")
        for width, stride in zip(widths, (4, 8, 16, 32))
    ]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        neck.to("meta")(levels)
    assert counter.get_total_flops() / 2e9 == pytest.approx(billions, abs=0.1)


@pytest.mark.parametrize("library", LIBRARIES)
def test_each_library_builds_the_necks_before_special_heads(library):
    branches = {"type": "TrainingBranches", "in_channels": 8, "out_channels": [4, 8], "main": 1}
    for neck in ({"type": "ContiguousLevels"}, {"type": "MeanTokens"}, branches):
        assert type(models(library).build(neck)).__name__ == neck["type"]


def test_training_branches_are_read_in_training_and_the_main_branch_in_evaluation_mode():
    neck = xcit_dense.mm.necks.TrainingBranches(8, (4, 8), main=1)
    levels = [torch.rand(1, 8, 8, 8), torch.rand(1, 8, 4, 4)]
    first, second = neck(levels)
    assert (first.shape, second.shape) == ((1, 4, 4, 4), (1, 8, 4, 4))
    assert torch.equal(neck.eval()(levels), second)
