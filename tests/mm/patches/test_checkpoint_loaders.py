"""MMEngine reads the checkpoints of trainings and publications without executing code, and finds weights by name."""

import os
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader, load_checkpoint

import xcit_dense.mm
from tests.helpers.models import matching_names, raises_user_error
from xcit_dense.models.pretrained import load_weights
from xcit_dense.weights import resolve


@pytest.fixture
def saved_and_read(tmp_path):
    """Saves a checkpoint and reads it with MMEngine."""

    def check(content, **options):
        torch.save(content, tmp_path / "a.pth")
        return CheckpointLoader.load_checkpoint(str(tmp_path / "a.pth"), **options)

    return check


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Saves a file with this content and makes the address refer to the file. Returns the address."""

    def put(address, content):
        path = tmp_path / ("a.safetensors" if address.startswith("timm") else "a.pth")
        save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
        monkeypatch.setattr(resolve, "_fetcher", lambda _: lambda: path)
        return address

    return put


class Intruder:
    """Makes a directory when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


class Call:
    """An object that is pickled as a call, as in a malicious file."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


# What training checkpoints hold -------------------------------------------------------------------------------------


def test_mmengine_reads_what_a_training_logs(saved_and_read):
    hub = MessageHub("test_mmengine_reads_what_a_training_logs")
    for loss in (0.5, 0.25):
        hub.update_scalar("train/loss", torch.tensor(loss))
        hub.update_scalar("train/grad_norm", np.float32(loss))
        hub.update_scalar("train/time", loss)
    hub.update_info("best", np.float64(0.75))
    hub.update_info("count", np.int64(3))
    read = saved_and_read({"message_hub": hub.state_dict()})["message_hub"]
    for name in ("train/loss", "train/grad_norm", "train/time"):
        values, counts = read["log_scalars"][name].data
        assert values.tolist() == [0.5, 0.25]
        assert counts.tolist() == [1, 1]
        assert read["log_scalars"][name].mean() == 0.375
    assert (read["runtime_info"]["best"], read["runtime_info"]["count"]) == (0.75, 3)


@pytest.mark.parametrize("numpy", [1, 2])
@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "int64", "int32", "uint32", "uint8", "bool"])
def test_mmengine_reads_arrays_and_scalars(tmp_path, kind, numpy):
    array = np.array([0, 1, 3]).astype(kind)
    torch.save({"array": array, "scalar": array[1]}, tmp_path / "new.pth")
    # NumPy 1 and 2 differ in the name of the module that makes arrays again.
    old, new = (b"numpy.core.multiarray", b"numpy._core.multiarray")[:: 1 if numpy == 2 else -1]
    with zipfile.ZipFile(tmp_path / "new.pth") as source, zipfile.ZipFile(tmp_path / "a.pth", "w") as target:
        for name in source.namelist():
            content = source.read(name).replace(old, new)
            assert new in content or not name.endswith("data.pkl")
            target.writestr(name, content)
    read = CheckpointLoader.load_checkpoint(str(tmp_path / "a.pth"))
    assert read["array"].dtype == array.dtype
    assert read["array"].tolist() == array.tolist()
    assert read["scalar"] == array[1]


def test_the_complete_content_of_a_training_checkpoint_is_read_to_the_given_device(saved_and_read):
    content = {
        "state_dict": {"a": torch.ones(2)},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999)}]},
        "param_schedulers": [{"last_step": 3, "_last_value": [1e-4]}],
        "meta": {"dataset_meta": {"classes": ("cat",), "palette": [(1, 2, 3)]}, "epoch": 1},
    }
    read = saved_and_read(content, map_location="meta")
    assert read["state_dict"]["a"].is_meta
    assert read["optimizer"]["state"][0]["step"].is_meta
    for part in ("param_schedulers", "meta"):
        assert read[part] == content[part]
    assert read["optimizer"]["param_groups"] == content["optimizer"]["param_groups"]
    torch.testing.assert_close(saved_and_read(content)["state_dict"]["a"], torch.ones(2))


def test_reading_does_not_change_what_pytorch_allows(saved_and_read):
    before = set(torch.serialization.get_safe_globals())
    saved_and_read({"buffer": HistoryBuffer([0.5], [1])})
    assert set(torch.serialization.get_safe_globals()) == before


def test_types_that_were_allowed_before_stay_allowed(saved_and_read):
    pair = (HistoryBuffer, "mmengine.logging.history_buffer.HistoryBuffer")
    with torch.serialization.safe_globals([pair]):
        saved_and_read({"buffer": HistoryBuffer([0.5], [1])})
        assert pair in torch.serialization.get_safe_globals()


def test_a_backbone_starts_from_a_training_checkpoint(tmp_path):
    backbone = xcit_dense.XCiT("nano_12_p16")
    weights = {f"backbone.{name}": value + 1 for name, value in backbone.state_dict().items()}
    torch.save({"state_dict": weights, "message_hub": {"loss": HistoryBuffer([0.5], [1])}}, tmp_path / "epoch_1.pth")
    load_weights(backbone, tmp_path / "epoch_1.pth")
    assert all(torch.equal(value, weights[f"backbone.{name}"]) for name, value in backbone.state_dict().items())


@pytest.mark.slow
def test_a_training_checkpoint_is_read_without_mm_libraries(tmp_path, python, without):
    backbone = xcit_dense.XCiT("nano_12_p16")
    content = {"state_dict": {f"backbone.{name}": value for name, value in backbone.state_dict().items()}}
    torch.save({**content, "message_hub": {"loss": HistoryBuffer([0.5], [1])}}, tmp_path / "epoch_1.pth")
    process = python(
        "-c",
        "import sys, xcit_dense\n"
        f"xcit_dense.XCiT.from_pretrained({str(tmp_path / 'epoch_1.pth')!r})\n"
        "print('mmengine' in sys.modules)",
        **without("mmengine", "mmcv", "mmdet", "mmseg"),
    )
    assert process.stdout.split() == ["False"]


# Files that carry code ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [(print, "executed"), (getattr, HistoryBuffer, "__init__"), (getattr, np.ndarray, "mean"), (getattr, "", "format")],
    ids=["call", "constructor", "array", "text"],
)
def test_calls_are_refused(saved_and_read, capsys, call):
    with raises_user_error(
        "a.pth", "holds more than weights", call[0].__name__, "torch.save(model.state_dict(), path)"
    ):
        saved_and_read({"payload": Call(*call)})
    assert "executed" not in capsys.readouterr().out


def test_arrays_of_objects_are_refused(saved_and_read):
    with raises_user_error("holds more than weights"):
        saved_and_read({"payload": np.array([{}, None], dtype=object)})


def load_into_model(path):
    load_checkpoint(torch.nn.Linear(1, 1), path)


def start_from(path):
    module = BaseModule(init_cfg={"type": "Pretrained", "checkpoint": path})
    module.init_weights()


@pytest.mark.parametrize("load", [load_into_model, start_from, CheckpointLoader.load_checkpoint])
@pytest.mark.parametrize("address", ["{}/a.pth", "https://example.com/a.pth", "xcit://nano_12_p16_224"])
def test_mmengine_loads_without_executing_code(tmp_path, serve, load, address):
    content = {"state_dict": {"weight": torch.ones(1, 1)}, "hook": Intruder(tmp_path / "executed")}
    address = serve(address.format(tmp_path), content)
    with raises_user_error("holds more than weights", "mkdir", "was not executed"):
        load(address)
    assert not (tmp_path / "executed").exists()


# Addresses and names ------------------------------------------------------------------------------------------------


def test_an_address_returns_the_complete_content_of_its_file(serve):
    address = serve("https://example.com/a.pth", {"state_dict": {"a": torch.ones(2)}, "meta": {"epoch": 3}})
    assert CheckpointLoader.load_checkpoint(address)["meta"] == {"epoch": 3}


def test_mmengine_reads_safetensors(tmp_path):
    model, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    save_file(other.state_dict(), tmp_path / "a.safetensors")
    load_checkpoint(model, str(tmp_path / "a.safetensors"), strict=True)
    assert torch.equal(model.weight, other.weight)


def test_a_missing_file_is_refused(tmp_path):
    with raises_user_error("No checkpoint at", tmp_path / "gone.pth"):
        CheckpointLoader.load_checkpoint(str(tmp_path / "gone.pth"))


def check_trunk(backbone, weights, pyramid):
    """Checks that a backbone holds the trunk of a classifier, and the pyramid it had."""
    own = {name: value for name, value in backbone.state_dict().items() if not name.startswith("fpn")}
    assert len(own) > 300
    assert all(torch.equal(weights[name], value) for name, value in own.items())
    assert pyramid
    assert all(torch.equal(backbone.state_dict()[name], value) for name, value in pyramid.items())


@pytest.mark.parametrize(
    "name", ["xcit://nano_12_p16_224", "xcit://dino/small_12_p16", "timm://xcit_nano_12_p16_224.fb_in1k"]
)
def test_mmengine_loads_published_backbones_by_name(serve, published, name):
    weights = published("classifier")  # not the weights of this name: the content decides
    if name.startswith("xcit://dino"):
        content = {key: value for key, value in weights.items() if not key.startswith("head.")}
    elif name.startswith("timm"):
        content = {key.replace("pos_embeder", "pos_embed"): value for key, value in weights.items()}
    else:
        content = {"model": weights}
    serve(name, content)
    backbone = xcit_dense.XCiT("nano_12_p16")
    pyramid = {key: value.clone() for key, value in backbone.state_dict().items() if key.startswith("fpn")}
    load_checkpoint(backbone, name, map_location="cpu")
    check_trunk(backbone, weights, pyramid)


@pytest.mark.parametrize("wrapper", ["state_dict", "module"])
def test_mmengine_loads_published_detectors_by_name(serve, published, wrapper):
    weights = {f"backbone.{name}": value for name, value in published("dense").items()}
    weights |= {"head.weight": torch.ones(2, 2), "head.bias": torch.ones(2)}
    start = "module." if wrapper == "module" else ""
    serve("xcit://coco/tiny_12_p16", {"state_dict": {start + name: value for name, value in weights.items()}})
    model = torch.nn.ModuleDict({"backbone": xcit_dense.XCiT("nano_12_p16"), "head": torch.nn.Linear(2, 2)})
    load_checkpoint(model, "xcit://coco/tiny_12_p16", strict=True)
    assert matching_names(model, weights) == set(weights)


def test_the_backbone_is_taken_out_of_a_published_detector(serve, published):
    weights = published("dense")
    content = {f"backbone.{name}": value for name, value in weights.items()} | {"head.weight": torch.ones(2)}
    serve("xcit://coco/tiny_12_p16", {"state_dict": content, "meta": {"CLASSES": ("cat",)}})
    backbone = xcit_dense.XCiT("nano_12_p16")
    load_weights(backbone, "xcit://coco/tiny_12_p16")
    assert matching_names(backbone, weights) == set(weights)


def test_the_mm_backbone_is_built_from_a_checkpoint_too(tmp_path, published):
    weights = published("dense")
    torch.save({"state_dict": {f"backbone.{name}": value for name, value in weights.items()}}, tmp_path / "a.pth")
    backbone = xcit_dense.mm.backbone.XCiT.from_pretrained(tmp_path / "a.pth", norm_eval=True)
    assert isinstance(backbone, BaseModule)
    assert backbone.norm_eval
    assert matching_names(backbone, weights) == set(weights)


def test_mmengine_refuses_an_unknown_name_with_the_nearest():
    with raises_user_error("nano_12_p16_22", "nano_12_p16_224"):
        CheckpointLoader.load_checkpoint("xcit://nano_12_p16_22")


def test_a_larger_model_refuses_the_weights_of_a_single_backbone_with_the_remedy(tmp_path, published):
    torch.save({"model": published("classifier")}, tmp_path / "a.pth")
    model = torch.nn.ModuleDict({"backbone": xcit_dense.XCiT("nano_12_p16")})
    with raises_user_error("'backbone.'", "init_cfg", "load_weights(model.backbone"):
        load_checkpoint(model, str(tmp_path / "a.pth"))


def test_models_without_an_xcit_load_as_before(tmp_path):
    weights = {"patch_embed.proj.0.0.weight": torch.ones(2, 2), "patch_embed.proj.0.0.bias": torch.ones(2)}
    torch.save(weights, tmp_path / "a.pth")
    model = torch.nn.Sequential()
    for name in ("0", "0", "proj", "patch_embed"):
        model = torch.nn.ModuleDict({name: torch.nn.Linear(2, 2) if not len(model) else model})
    load_checkpoint(model, str(tmp_path / "a.pth"))
    assert set(model.state_dict()) == set(weights)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


# Weights that fit in part -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["missing", "unknown", "reshaped", "elsewhere"])
def test_mmengine_refuses_weights_that_fit_in_part_and_does_not_change_the_backbone(tmp_path, published, change):
    weights = {f"backbone.{name}": value for name, value in published("dense").items()}
    name = "backbone.blocks.5.attn.temperature"
    if change == "missing":
        del weights[name]
    elif change == "unknown":
        weights["backbone.blocks.5.attn.extra"] = torch.ones(1)
    elif change == "reshaped":
        weights[name] = torch.ones(8, 1, 1)
    else:
        weights = {key.replace("backbone.", "trunk."): value for key, value in weights.items()}
    torch.save({"state_dict": weights}, tmp_path / "a.pth")
    model = torch.nn.ModuleDict({"backbone": xcit_dense.XCiT("nano_12_p16")})
    before = {key: value.clone() for key, value in model.state_dict().items()}
    words = ("'backbone.'", "init_cfg") if change == "elsewhere" else ("XCiT nano_12_p16", "blocks.5.attn")
    with raises_user_error(*words):
        load_checkpoint(model, str(tmp_path / "a.pth"))
    assert matching_names(model, before) == set(before)
