import pytest
import torch

from tests.helpers.checkpoints import DENSE_DIALECTS, DIALECTS, NAME, state_of
from tests.helpers.models import raises_user_error, randomise
from xcit_dense import XCiT
from xcit_dense.models.pretrained import load_weights


@pytest.fixture(scope="module")
def dense():
    """Weights of a dense backbone, all with different random values."""
    return dict(randomise(XCiT(NAME), seed=1).state_dict())


@pytest.fixture(scope="module")
def classifier(dense):
    """Weights of a classifier with the same trunk."""
    vector, matrix = torch.randn(128), torch.randn(128, 128)
    extra = {"cls_token": vector[None, None], "norm.weight": vector, "norm.bias": vector}
    for layer in (0, 1):
        for part in ("gamma1", "gamma2", "norm1.weight", "attn.proj.bias", "mlp.fc2.bias"):
            extra[f"cls_attn_blocks.{layer}.{part}"] = vector
        extra[f"cls_attn_blocks.{layer}.attn.proj.weight"] = matrix
    head = {"head.weight": torch.randn(1000, 128), "head.bias": torch.randn(1000)}
    return {**{k: v for k, v in dense.items() if not k.startswith("fpn")}, **extra, **head}


@pytest.fixture
def model():
    """The model that loads the weights, with other values."""
    return randomise(XCiT(NAME), seed=2)


@pytest.fixture
def check_loaded(dense):
    """Checks that a model has the trunk of the checkpoint, and the pyramid of the checkpoint or its earlier pyramid."""

    def check(model, before, from_classifier):
        for name, value in state_of(model).items():
            expected = before if from_classifier and name.startswith("fpn") else dense
            assert torch.equal(value, expected[name]), name

    return check


@pytest.fixture
def content(dense, classifier):
    """The content of a file of a dialect."""
    return lambda dialect: DIALECTS[dialect](dense if dialect in DENSE_DIALECTS else classifier)


@pytest.fixture
def refused(tmp_path, model):
    """Expects that loading raises an error with the name of the file and does not change the model."""

    def check(*words, file="weights.pth"):
        before = state_of(model)
        with raises_user_error(tmp_path / file, *words):
            load_weights(model, tmp_path / file)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    return check
