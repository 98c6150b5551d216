"""The weights of a single backbone reach each backbone of a model, through the hooks of MMEngine."""

import pytest
import torch
from torch import nn

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmengine.model import BaseModel
from mmengine.runner import Runner

import xcit_dense.mm  # noqa: F401
from tests.helpers.models import raises_user_error, tiny_xcit


class Model(BaseModel):
    """Two backbones and a head."""

    def __init__(self):
        super().__init__()
        self.teacher = nn.ModuleDict({"backbone": tiny_xcit(norm_cfg="BN")})
        self.student = nn.ModuleDict({"backbone": tiny_xcit(norm_cfg="BN")})
        self.head = nn.Linear(2, 2)

    def forward(self, *_, **__):
        return {"loss": self.head.weight.sum()}


@pytest.fixture
def run(tmp_path):
    """Makes a run that starts from a checkpoint with this content."""

    def make(content):
        torch.save(content, tmp_path / "a.pth")
        return Runner(
            model=Model(),
            work_dir=str(tmp_path / "work"),
            train_dataloader={
                "dataset": [{"inputs": torch.ones(1)}],
                "sampler": {"type": "DefaultSampler", "shuffle": False},
                "collate_fn": {"type": "pseudo_collate"},
                "batch_size": 1,
                "num_workers": 0,
            },
            train_cfg={"by_epoch": False, "max_iters": 1},
            optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.0}},
            default_hooks={"checkpoint": None},
            custom_hooks=[{"type": "CheckWeightsHook"}],
            load_from=str(tmp_path / "a.pth"),
            experiment_name=tmp_path.name,
        )

    return make


def classifier():
    weights = {name: value + 1 for name, value in tiny_xcit(norm_cfg="BN").state_dict().items()}
    trunk = {name: value for name, value in weights.items() if not name.startswith("fpn")}
    return {**trunk, "head.bias": torch.ones(1000)}


@pytest.mark.parametrize("wrapper", ["model", "state_dict", None])
def test_a_classifier_fills_each_backbone_of_a_model(run, wrapper):
    weights = classifier()
    runner = run({wrapper: weights, "epoch": 3} if wrapper else weights)
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    runner.train()
    for backbone in (runner.model.teacher.backbone, runner.model.student.backbone):
        state = backbone.state_dict()
        assert all(torch.equal(state[name], value) for name, value in weights.items() if name != "head.bias")
        assert backbone.load_report.left_out == ["head.bias"]
        assert set(backbone.load_report.missing) == {name for name in state if name.startswith("fpn")}
    after = runner.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items() if ".fpn" in name or "head" in name)


def test_a_checkpoint_is_loaded_once(run):
    runner = run({"state_dict": Model().state_dict()})
    loads = []
    runner.model.register_load_state_dict_post_hook(lambda *_: loads.append(1))
    runner.train()
    assert loads == [1]


def test_a_backbone_that_does_not_fit_is_refused_by_the_name_of_its_file(run, tmp_path):
    with raises_user_error(tmp_path / "a.pth", "depth=5", "depth=4"):
        run({"model": tiny_xcit(norm_cfg="BN", depth=5, out_indices=None).state_dict()}).train()
