"""tools/benchmark.py counts, writes and refuses correctly. The measured times are not tested."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from xcit_dense.benchmark import contenders, options, race
from xcit_dense.benchmark.figures import Figures, Result
from xcit_dense.cli import benchmark
from xcit_dense.cli import options as options_of_commands
from xcit_dense.cli.main import run_tool

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

TOOL = Path(__file__).parents[2] / "tools/benchmark.py"
SMALL = ("--variant", "nano_12_p16", "--rounds", 2, "--threads", 1)
BOTH = "ours,literal,timm,timm-fused"
WIDE = "256x256"  # N = 2 C, so that the covariance form is the cheaper one


@pytest.fixture(scope="module")
def training(python, tmp_path_factory):
    """A run with the command of a user: its directory, JSON and text."""
    out = tmp_path_factory.mktemp("benchmark") / "new" / "directory"
    names = f"{BOTH},checkpointed"
    done = python(TOOL, *SMALL, "--train", "--sizes", f"{WIDE},64x96", "--contenders", names, "--out", out)
    content = json.loads((out / "benchmark.json").read_text())
    return SimpleNamespace(out=out, content=content, text=done.stdout, progress=done.stderr)


@pytest.fixture
def main(monkeypatch, tmp_path):
    """Runs the tool in this process. Returns the output directory."""

    def run(*arguments):
        out = tmp_path / "out"
        run_tool("benchmark", list(map(str, (*SMALL, "--out", out, *arguments))))
        return out

    return run


@pytest.fixture
def refused(main, monkeypatch, tmp_path):
    """Runs the tool and expects an error before the first measurement. Returns the sentence."""

    def run(*arguments):
        monkeypatch.setattr(race, "measure", lambda *_: pytest.fail("measured"))
        with pytest.raises(SystemExit) as exit_:
            main(*arguments)
        sentence = str(exit_.value)
        assert sentence.startswith("error: ")
        assert "\n" not in sentence
        assert not (tmp_path / "out").exists()
        return sentence

    return run


def test_every_contender_for_training_runs_and_agrees(training):
    for result in training.content["results"]:
        assert {*result["contenders"]} == {*BOTH.split(","), "checkpointed"}
        for figures in result["contenders"].values():
            assert len(figures["samples"]) == 2
            assert min(figures["samples"]) <= figures["seconds"] <= max(figures["samples"])
            assert {*figures["errors"]} == {"levels", "gradients"}
            assert max(figures["errors"].values()) < training.content["tolerance"] == 1e-3


def test_inference_at_one_size_is_not_drawn(main, capsys):
    out = main("--sizes", WIDE, "--contenders", f"{BOTH},deployed")
    assert [path.name for path in out.iterdir()] == ["benchmark.json"]
    text = capsys.readouterr().out
    assert "inference on CPU" in text
    assert "A pixel of" not in text
    (result,) = json.loads((out / "benchmark.json").read_text())["results"]
    counts = {name: one["multiply_adds"] for name, one in result["contenders"].items()}
    assert max(counts["ours"], counts["deployed"]) < counts["literal"]
    assert counts["timm"] == counts["timm-fused"] == counts["literal"]
    assert {*result["contenders"]["deployed"]["errors"]} == {"levels"}


def test_the_json_contains_the_options_and_the_machine(training):
    content = training.content
    assert content["options"]["sizes"] == [[64, 96], [256, 256]]
    assert content["options"]["train"] is True
    assert content["options"]["threads"] == 1
    assert [result["pixels"] for result in content["results"]] == [64 * 96, 256 * 256]
    assert content["versions"]["torch"] == torch.__version__
    assert content["machine"]["cpu"]
    assert content["date"]


def test_training_saves_less_than_timms_and_with_checkpoints_less_still(training):
    figures = training.content["results"][-1]["contenders"]
    saved = {name: one["saved_bytes"] for name, one in figures.items()}
    assert saved["checkpointed"] < saved["ours"] < saved["timm"]


def test_one_table_a_size_and_the_growth_are_printed(training):
    for size in ("64x96", WIDE):
        assert f"{size}, nano_12_p16, batch 1, fp32, training step on CPU, threads: 1" in training.text
    assert f"A pixel of {WIDE} over one of 64x96" in training.text
    assert training.progress.count("round 2 of 2") == 2
    for name in training.content["options"]["contenders"]:
        assert f" {name} |" in training.text


def test_time_and_memory_are_drawn_against_pixels(training):
    assert {path.name for path in training.out.iterdir()} == {"benchmark.json", "time.png", "memory.png"}
    for name in ("time.png", "memory.png"):
        with Image.open(training.out / name) as image:
            image.load()
            assert min(image.size) > 300
            assert len(image.convert("RGB").getcolors(100_000)) > 10


def test_measurements_before_a_failure_are_kept(main, monkeypatch, tmp_path):
    measure = race.measure

    def fail(options, size):
        if size == (64, 64):
            raise RuntimeError("out of memory")
        return measure(options, size)

    monkeypatch.setattr(race, "measure", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        main("--contenders", "ours", "--sizes", "32x32,64x64")
    (result,) = json.loads((tmp_path / "out/benchmark.json").read_text())["results"]
    assert result["size"] == "32x32"


def test_the_help_names_the_contenders_and_number_formats_that_exist():
    assert tuple(contenders.CONTENDERS) == benchmark.CONTENDERS
    assert tuple(options.DTYPES) == benchmark.DTYPES


def test_the_help_names_the_contenders_of_complete_models():
    pytest.importorskip("mmseg")
    import xcit_dense.mm  # noqa: F401
    from xcit_dense.mm.benchmark.contenders import CONTENDERS

    assert tuple(CONTENDERS) == benchmark.MODEL_CONTENDERS


def test_contenders_of_other_runtimes_run_only_where_they_are_named():
    names = contenders.choose(None, train=False)
    assert "deployed" in names
    assert not any(contenders.CONTENDERS[name].runtime for name in names)


# Complete models ----------------------------------------------------------------------------------------------------


def test_a_complete_model_is_measured(tmp_path, capsys):
    pytest.importorskip("mmseg")
    out, arguments = tmp_path / "out", ["--model", "sem_fpn_xcit_n12_p8_shapes", "--sizes", "64x64", "--rounds", "1"]
    run_tool("benchmark", [*arguments, "--contenders", "ours,library-heads", "--out", str(out)])
    content = json.loads((out / "benchmark.json").read_text())
    assert content["options"]["model"] == "sem_fpn_xcit_n12_p8_shapes"
    (result,) = content["results"]
    assert list(result["contenders"]) == ["ours", "library-heads"]
    assert result["contenders"]["ours"]["parts"]["decode head"] > 0
    text = capsys.readouterr().out
    assert "library / it" in text
    assert "| decode head |" in text


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ([], [(False, "fp32")]),
        (["--train", "--dtype", "bf16"], [(True, "bf16")]),
        (["--device", "cuda"], [(False, "fp32"), (False, "bf16"), (True, "fp32"), (True, "bf16")]),
        (["--device", "cuda", "--no-train"], [(False, "fp32"), (False, "bf16")]),
        (["--device", "cuda", "--dtype", "fp32"], [(False, "fp32"), (True, "fp32")]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_on_cuda_one_command_measures_backbone_and_model_in_all_steps(monkeypatch, tmp_path, given, steps):
    pytest.importorskip("mmdet")
    found = []
    monkeypatch.setattr(benchmark, "_measure", lambda case, directory: found.append((case, directory)) or [])
    for module in (benchmark, options_of_commands):
        monkeypatch.setattr(module, "choose_device", lambda device: None)  # there may be no GPU
    run_tool("benchmark", ["--model", "mask_rcnn_xcit_n12", *given, "--out", str(tmp_path)])
    cases = [case for case, _ in found]
    models = [case for case in cases if case.name.startswith("mask_rcnn_xcit_n12")]
    assert [(case.options.train, case.options.dtype) for case in models] == steps
    backbones = [case for case in cases if case.name.startswith("nano_12_p16")]
    on_cuda = "cuda" in given
    assert [(case.options.train, case.options.dtype) for case in backbones] == (steps if on_cuda else [])
    assert len({directory for _, directory in found}) == len(found)
    for case in cases:
        assert case.options.sizes == ((800, 1344),)
        assert {"ours", "timm", "timm-compiled"} <= set(case.options.contenders)
        assert ("openvino" in case.options.contenders) == (case.name == "mask_rcnn_xcit_n12-fp32" and not on_cuda)


def test_a_case_that_fails_does_not_end_the_others(monkeypatch, tmp_path, capsys):
    pytest.importorskip("mmdet")
    one = Figures({}, None, None, 2_000_000, [0.5], 0.5)

    def measure(case, directory):
        if case.options.train:
            raise torch.OutOfMemoryError("out of memory")
        return [Result("800x1344", 800 * 1344, {"timm": one})]

    monkeypatch.setattr(benchmark, "_measure", measure)
    for module in (benchmark, options_of_commands):
        monkeypatch.setattr(module, "choose_device", lambda device: None)  # there may be no GPU
    with pytest.raises(SystemExit, match="4 of 8 cases"):
        run_tool("benchmark", ["--model", "mask_rcnn_xcit_n12", "--device", "cuda", "--out", str(tmp_path)])
    text = capsys.readouterr().out
    assert text.count("is not measured: out of memory") == 4
    assert "| mask_rcnn_xcit_n12-bf16 | 800x1344 |      timm |   500.00 |      1.00 |     2.00 |" in text


def test_sizes_and_batch_depend_on_the_task_and_the_step(monkeypatch, tmp_path):
    pytest.importorskip("mmseg")
    found = []
    monkeypatch.setattr(benchmark, "_measure", lambda case, directory: found.append(case.options))
    for given in ([], ["--train"], ["--train", "--batch", "3"]):
        run_tool("benchmark", ["--model", "upernet_xcit_n12", *given, "--out", str(tmp_path)])
    assert [(options.sizes, options.batch) for options in found] == [(((512, 704),), number) for number in (1, 2, 3)]


def test_a_variant_and_a_model_exclude_each_other(main, capsys):
    with pytest.raises(SystemExit):
        main("--model", "sem_fpn_xcit_n12")  # the fixture gives --variant
    assert "not allowed with argument --variant" in capsys.readouterr().err


# Refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--variant", "smal_12_p16"], ["smal_12_p16", "small_12_p16"]),
        (["--sizes", "800*1344"], ["800*1344", "HEIGHTxWIDTH"]),
        (["--sizes", "64x64,0x64"], ["0x64", "HEIGHTxWIDTH"]),
        (["--rounds", 0], ["--rounds 0", "1 or more"]),
        (["--contenders", "ours,tim"], ["'tim'", "'timm'"]),
        (["--contenders", "checkpointed"], ["inference", "'checkpointed'", "ours, deployed"]),
        (["--contenders", "deployed", "--train"], ["training", "'deployed'", "ours, compiled"]),
        (["--contenders", "onnxruntime", "--dtype", "bf16"], ["onnxruntime", "--dtype fp32"]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_options_that_cannot_be_run_are_refused_in_a_sentence(refused, given, words):
    sentence = refused(*given)
    for word in words:
        assert word in sentence


def test_compiling_without_a_compiler_is_refused(refused, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-g++")
    assert "no-such-g++" in refused()


@pytest.mark.parametrize("name", ["openvino", "timm-onnxruntime"])
def test_a_runtime_that_is_not_installed_is_refused(refused, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name.removeprefix("timm-"), None)
    assert "pip install 'xcit-dense[export" in refused("--contenders", f"ours,{name}")  # onnx may be missing too


def test_drawing_without_matplotlib_is_refused(refused, monkeypatch):
    monkeypatch.delitem(sys.modules, "xcit_dense.benchmark.report", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install matplotlib" in refused("--contenders", "ours")


def test_a_directory_that_cannot_be_made_is_refused(refused, tmp_path):
    (tmp_path / "file").touch()
    assert "name another" in refused("--contenders", "ours", "--out", tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_gpu_is_refused(refused):
    assert "--device cpu" in refused("--device", "cuda")
