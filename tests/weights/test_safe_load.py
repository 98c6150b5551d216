"""Checkpoint files are read without executing code, and damaged files are refused."""

import copyreg
import io
import os
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.helpers.models import raises_user_error
from xcit_dense.errors import UserError
from xcit_dense.weights.safe_load import load_allowed, read_file


@pytest.fixture
def weights():
    return {"weight": torch.randn(40, 50), "bias": torch.randn(50)}


@pytest.fixture
def refused(tmp_path):
    """Expects that a file is refused, with an error that names the file."""

    def check(*words, file="weights.pth"):
        with raises_user_error(tmp_path / file, *words):
            read_file(tmp_path / file)

    return check


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("layout", ["zip", "legacy", "safetensors"])
def test_a_file_cut_short_is_refused(tmp_path, refused, weights, layout, part):
    file = tmp_path / ("weights.safetensors" if layout == "safetensors" else "weights.pth")
    if layout == "safetensors":
        save_file(weights, file)
    else:
        torch.save(weights, file, _use_new_zipfile_serialization=layout == "zip")
    os.truncate(file, int(part * file.stat().st_size))
    refused("was cut short", file=file.name)


@pytest.mark.parametrize("file", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize(
    "text",
    ["hello world\n", "<!DOCTYPE html><title>404</title>", "version https://git-lfs.github.com/spec/v1\n", "\x80\x02."],
)
def test_a_file_of_text_is_refused(tmp_path, refused, text, file):
    (tmp_path / file).write_text(text, encoding="latin-1")
    refused("is not a ", file=file)
    with pytest.raises(UserError) as caught:
        read_file(tmp_path / file)
    assert "weights_only" not in str(caught.value)


def test_a_file_without_read_permission_is_refused_with_the_cause(tmp_path, refused, weights, monkeypatch):
    def forbid(*_, **__):
        raise PermissionError(13, "Permission denied")

    torch.save(weights, tmp_path / "weights.pth")
    monkeypatch.setattr(torch, "load", forbid)
    refused("cannot be read", "Permission denied")


def test_the_cause_is_reported_without_pytorchs_advice_to_execute_the_file(tmp_path, refused, weights, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("advice\nWeightsUnpickler error: odd bytes. More advice.\nadvice")

    torch.save(weights, tmp_path / "weights.pth")
    monkeypatch.setattr(torch, "load", fail)
    refused("(RuntimeError: odd bytes); write")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_file_saved_on_a_gpu_is_refused_without_one_with_the_remedy(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "cpu.pth")
    with zipfile.ZipFile(tmp_path / "cpu.pth") as source, zipfile.ZipFile(tmp_path / "gpu.pth", "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0"))
    with raises_user_error(tmp_path / "gpu.pth", "saved on a GPU", "map_location='cpu'"):
        read_file(tmp_path / "gpu.pth", None)
    assert torch.equal(read_file(tmp_path / "gpu.pth")["a"], torch.ones(2))


class Intruder:
    """Makes a directory when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_a_pickle_that_would_execute_code_is_refused_and_not_executed(tmp_path, refused, weights, layout):
    marker, file = tmp_path / "executed", tmp_path / "weights.pth"
    content = {"state_dict": weights, "hook": Intruder(marker)}
    torch.save(content, file, _use_new_zipfile_serialization=layout == "zip")
    refused("holds more than weights", "mkdir", "was not executed")
    assert not marker.exists()
    torch.load(file, weights_only=False)
    assert marker.exists()  # it would have been executed


def test_a_pickled_model_is_refused(tmp_path, refused):
    torch.save(nn.Linear(2, 2), tmp_path / "weights.pth")
    refused("holds more than weights", "Linear", "torch.save(model.state_dict(), path)")


class Call:
    """Pickled as a call, with a state for its result, as in a malicious file."""

    def __init__(self, function, *arguments, state=None):
        self.call = function, arguments, state

    def __reduce__(self):
        return self.call


class New:
    """Pickled as a new object of a class."""

    def __init__(self, kind, *arguments):
        self.call = copyreg.__newobj__, (kind, *arguments)

    @property
    def __class__(self):  # as pickle expects
        return self.call[1][0]

    def __reduce_ex__(self, protocol):
        return self.call


def array(shape, kind, data):
    return Call(*np.array(0).__reduce__()[:1], np.ndarray, (0,), b"b", state=(1, shape, kind, False, data))


RECONSTRUCT, SCALAR = np.array(0).__reduce__()[0], np.float64(0).__reduce__()[0]


POINTER = b"AAAAAAAA"


FORGED = Call(np.dtype, "f8", False, True, state=(3, "<", None, None, None, -1, -1, 63))


FIELD = Call(np.dtype, "V8", False, True, state=(3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 27))


ATTACKS = {
    "array made over memory": Call(np.ndarray, (1,), np.dtype("O"), bytearray(POINTER)),
    "array of numbers made over memory": Call(np.ndarray, (1,), np.dtype("f8"), bytearray(POINTER)),
    "new array over memory": New(np.ndarray, (1,), np.dtype("O"), bytearray(POINTER)),
    "array of a subclass": Call(RECONSTRUCT, dict, (1,), b"b"),
    "array of numbers with flags of objects": array((1,), FORGED, POINTER),
    "array with a field of objects": array((1,), FIELD, POINTER),
    "scalar of numbers with flags of objects": Call(SCALAR, FORGED, POINTER),
    "scalar of objects": Call(SCALAR, np.dtype("O"), POINTER),
    "array longer than its data": array((1 << 40,), np.dtype("f8"), POINTER),
    "array of negative length": array((-1, -1), np.dtype("f8"), POINTER),
    "array of a list": array((1,), np.dtype("f8"), [{}]),
    "scalar shorter than its type": Call(SCALAR, np.dtype("f8"), b"A"),
    "dtype of objects": np.dtype("O"),
    "dtype of records": np.dtype([("a", "f8")]),
    "new dtype": New(np.dtype, "O"),
    "state given twice": (a := array((1,), np.dtype("f8"), POINTER), Call(RECONSTRUCT, a, (1,), b"b")),
}


def test_a_pickle_with_false_claims_about_memory_is_refused(tmp_path, python):
    """Runs in a process of its own, because a forged pointer would crash it."""
    for name, content in ATTACKS.items():
        torch.save({"payload": content}, tmp_path / f"{name}.pth")
    code = """
import pathlib, sys
from xcit_dense.errors import UserError
from xcit_dense.weights.safe_load import read_file
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.pth")):
    try:
        print(path.stem, "gave", repr(read_file(path)["payload"]), flush=True)
    except UserError as error:
        print(path.stem, "holds more than weights" in str(error) or str(error), flush=True)
"""
    said = python("-c", code, tmp_path).stdout.splitlines()
    assert said == [f"{name} True" for name in sorted(ATTACKS)]


def test_arrays_of_numbers_are_read_and_are_saved_again_as_numpys_arrays(tmp_path):
    arrays = {
        "turned": np.arange(6.0).reshape(2, 3).T,
        "point": np.array(3, np.uint16),
        "complex": np.ones(2, np.complex64),
        "big-endian": np.arange(3, dtype=">i4"),
    }
    torch.save(arrays, tmp_path / "a.pth")
    read = read_file(tmp_path / "a.pth")
    torch.save(read, tmp_path / "b.pth")
    for again in (read, torch.load(tmp_path / "b.pth", weights_only=False)):
        for name, value in arrays.items():
            np.testing.assert_array_equal(again[name], value)
            assert again[name].dtype == value.dtype.newbyteorder("=")  # as NumPy reads it
    assert {type(value) for value in again.values()} == {np.ndarray}


def test_types_that_others_allow_do_not_replace_the_stand_ins(tmp_path, refused, monkeypatch):
    torch.save({"payload": ATTACKS["dtype of records"]}, tmp_path / "weights.pth")
    kinds = [np.dtype, np.ndarray, (np.ndarray, "numpy.ndarray"), nn.Linear]
    during, load = [], torch.load
    monkeypatch.setattr(
        torch,
        "load",
        lambda *args, **options: during.extend(torch.serialization.get_safe_globals()) or load(*args, **options),
    )
    with torch.serialization.safe_globals(kinds):
        refused("holds more than weights", "numpy.dtype")
        assert set(kinds) & set(during) == {nn.Linear}
        assert set(kinds) <= set(torch.serialization.get_safe_globals())


# Loads that overlap --------------------------------------------------------------------------------------------------


class Paused(io.BytesIO):
    """A file whose first read reports that the load has begun, and waits for an event."""

    def __init__(self, content, go, seconds):
        super().__init__(content)
        self.begun, self.go, self.seconds = threading.Event(), go, seconds

    def read(self, *arguments):
        if not self.begun.is_set():
            self.begun.set()
            self.go.wait(self.seconds)
        return super().read(*arguments)


def saved_bytes():
    file = io.BytesIO()
    torch.save({"a": np.ones(2)}, file)
    return file.getvalue()


def test_two_loads_at_the_same_time_both_work_and_leave_no_type_allowed():
    before = set(torch.serialization.get_safe_globals())
    second_has_begun, first_is_done = threading.Event(), threading.Event()
    first = Paused(saved_bytes(), second_has_begun, seconds=1)
    second = Paused(saved_bytes(), first_is_done, seconds=10)
    second.begun = second_has_begun
    with ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(load_allowed, first)]
        assert first.begun.wait(10)
        loads.append(pool.submit(load_allowed, second))
        assert loads[0].result()["a"].tolist() == [1, 1]
        first_is_done.set()
        assert loads[1].result()["a"].tolist() == [1, 1]
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_load_undoes_only_its_own_change_of_what_pytorch_allows():
    go = threading.Event()
    file = Paused(saved_bytes(), go, seconds=10)
    with torch.serialization.safe_globals([np.ndarray]), ThreadPoolExecutor(1) as pool:
        before = set(torch.serialization.get_safe_globals())
        load = pool.submit(load_allowed, file)
        assert file.begun.wait(10)
        with torch.serialization.safe_globals([nn.Linear]):
            go.set()
            assert load.result()["a"].tolist() == [1, 1]
            assert set(torch.serialization.get_safe_globals()) == before | {nn.Linear}
        assert set(torch.serialization.get_safe_globals()) == before
