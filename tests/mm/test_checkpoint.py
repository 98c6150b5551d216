"""MM checkpoints under PyTorch's safe loader, and published weights by name."""

import pickle

import numpy as np
import pytest
import torch

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader, load_checkpoint

import xcit_dense.mm
from xcit_dense.checkpoint import load_weights


def saved_and_read(content, path):
    torch.save(content, path)
    return torch.load(path, weights_only=True)


def test_the_safe_loader_reads_what_a_training_logs(tmp_path):
    hub = MessageHub("test_the_safe_loader_reads_what_a_training_logs")
    for loss in (0.5, 0.25):
        hub.update_scalar("train/loss", torch.tensor(loss))
        hub.update_scalar("train/grad_norm", np.float32(loss))
        hub.update_scalar("train/time", loss)
    hub.update_info("best", np.float64(0.75))
    hub.update_info("count", np.int64(3))
    read = saved_and_read({"message_hub": hub.state_dict()}, tmp_path / "epoch_1.pth")["message_hub"]
    for name in ("train/loss", "train/grad_norm", "train/time"):
        values, counts = read["log_scalars"][name].data
        assert values.tolist() == [0.5, 0.25]
        assert counts.tolist() == [1, 1]
        assert read["log_scalars"][name].mean() == 0.375
    assert (read["runtime_info"]["best"], read["runtime_info"]["count"]) == (0.75, 3)


@pytest.mark.parametrize("kind", ["float64", "float32", "int64", "int32", "uint32", "bool"])
def test_the_safe_loader_reads_arrays_and_scalars(tmp_path, kind):
    array = np.array([0, 1, 3]).astype(kind)
    read = saved_and_read({"array": array, "scalar": array[1]}, tmp_path / "a.pth")
    assert read["array"].dtype == array.dtype
    assert read["array"].tolist() == array.tolist()
    assert read["scalar"] == array[1]


class Call:
    """Pickled as a call, as a malicious file would hold one."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "call",
    [(print, "executed"), (getattr, HistoryBuffer, "__init__"), (getattr, np.ndarray, "mean"), (getattr, "", "format")],
    ids=["call", "constructor", "array", "text"],
)
def test_the_safe_loader_still_refuses_code(tmp_path, capsys, call):
    with pytest.raises(pickle.UnpicklingError):
        saved_and_read({"payload": Call(*call)}, tmp_path / "a.pth")
    assert "executed" not in capsys.readouterr().out


def test_the_safe_loader_reads_a_training_checkpoint_after_mmengine_read_one(tmp_path):
    content = {"state_dict": {}, "buffer": HistoryBuffer([0.5], [1]), "scalar": np.float64(0.5)}
    torch.save(content, tmp_path / "a.pth")
    read = CheckpointLoader.load_checkpoint(str(tmp_path / "a.pth"))
    assert read["buffer"].mean() == 0.5
    assert saved_and_read(content, tmp_path / "b.pth")["buffer"].mean() == 0.5


def test_a_backbone_starts_from_a_training_checkpoint(tmp_path):
    backbone = xcit_dense.XCiT("nano_12_p16")
    weights = {f"backbone.{name}": value + 1 for name, value in backbone.state_dict().items()}
    torch.save({"state_dict": weights, "message_hub": {"loss": HistoryBuffer([0.5], [1])}}, tmp_path / "epoch_1.pth")
    load_weights(backbone, tmp_path / "epoch_1.pth")
    assert all(torch.equal(value, weights[f"backbone.{name}"]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize("whole", [False, True], ids=["backbone", "detector"])
def test_mmengine_loads_published_weights_by_name(downloaded, whole):
    backbone = xcit_dense.XCiT("nano_12_p16")
    model = torch.nn.ModuleDict({"backbone": backbone, "head": torch.nn.Linear(2, 2)}) if whole else backbone
    load_checkpoint(model, "xcit://nano_12_p16_224", map_location="cpu")
    trunk = {name: value for name, value in backbone.state_dict().items() if name in downloaded}
    assert len(trunk) > 300
    assert all(torch.equal(downloaded[name], value) for name, value in trunk.items())


def test_mmengine_refuses_an_unknown_name_with_the_nearest(user_error):
    with user_error("nano_12_p16_22", "nano_12_p16_224"):
        CheckpointLoader.load_checkpoint("xcit://nano_12_p16_22")
