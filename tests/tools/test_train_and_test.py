"""tools/train.py and tools/test.py run from another directory, with the commands of a user."""

import json
import re
import runpy
import sys

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmengine.config import Config

from tests.helpers.runs import optimizer_steps, read_checkpoint, read_log, read_training_log, short_run
from xcit_dense.cli.test import write_json

# Runs


@pytest.mark.slow
def test_training_writes_checkpoint_log_and_curve(trained):
    checkpoint = read_checkpoint(trained.checkpoint)
    assert checkpoint["meta"]["iter"] == 4
    assert any(name.startswith("backbone.blocks.11.") for name in checkpoint["state_dict"])
    assert optimizer_steps(trained.checkpoint) == {4}
    assert [record["iter"] for record in read_training_log(trained.work_dir)] == [1, 2, 3, 4]
    assert all(np.isfinite(record["loss"]) for record in read_training_log(trained.work_dir))
    assert len(list(trained.work_dir.glob("*/*.log"))) == 1
    with Image.open(trained.work_dir / "learning_curve.png") as image:
        assert min(image.size) > 300
    assert "\nmasks " in trained.output
    assert str(trained.work_dir / "learning_curve.png") in trained.output
    assert not list(trained.work_dir.glob("*.part*"))


@pytest.mark.slow
def test_resuming_continues_from_the_last_checkpoint(trained, python, tools, shapes, tmp_path):
    work_dir = tmp_path / "resumed"
    work_dir.mkdir()
    (work_dir / "iter_4.pth").symlink_to(trained.checkpoint)
    (work_dir / "last_checkpoint").write_text(str(work_dir / "iter_4.pth"))
    command = [tools.train, tools.shapes, "--data-root", shapes, "--work-dir", work_dir, "--device", "cpu"]
    python(*command, "--resume", *short_run(6))
    assert [record["iter"] for record in read_training_log(work_dir)] == [5, 6]
    assert read_checkpoint(work_dir / "iter_6.pth")["meta"]["iter"] == 6
    assert optimizer_steps(work_dir / "iter_6.pth") == {6}
    rates = [record["lr"] for record in read_training_log(trained.work_dir) + read_training_log(work_dir)]
    assert rates == sorted(set(rates)), "the warm-up began again"
    # A test or training with the config in that directory must not continue from that checkpoint.
    config = Config.fromfile(work_dir / tools.shapes.name)
    assert (config.resume, config.load_from) == (False, None)


@pytest.mark.slow
def test_resuming_from_a_named_checkpoint_in_mixed_precision_runs_in_float32_on_cpu(
    trained, python, tools, shapes, tmp_path
):
    command = [tools.train, tools.shapes, "--data-root", shapes, "--work-dir", tmp_path, "--device", "cpu"]
    process = python(*command, "--resume", trained.checkpoint, "--amp", *short_run(5))
    assert [record["iter"] for record in read_training_log(tmp_path)] == [5]
    assert optimizer_steps(tmp_path / "iter_5.pth") == {5}
    assert "training in float32" in process.stdout + process.stderr
    floats = {
        value.dtype
        for value in read_checkpoint(tmp_path / "iter_5.pth")["state_dict"].values()
        if value.is_floating_point()
    }
    assert floats == {torch.float32}


@pytest.mark.slow
def test_the_rate_is_scaled_with_the_batch_where_asked(trained, python, tools, shapes, tmp_path):
    """Four images a step instead of the two of the config."""
    command = [tools.train, tools.shapes, "--data-root", shapes, "--work-dir", tmp_path, "--device", "cpu"]
    python(*command, "--auto-scale-lr", *short_run(1, **{"train_dataloader.batch_size": 4}))
    assert read_training_log(tmp_path)[0]["lr"] == pytest.approx(2 * read_training_log(trained.work_dir)[0]["lr"])


@pytest.fixture(scope="module")
def tested(trained, python, tools, shapes, tmp_path_factory):
    """The output of tools/test.py for the work directory of the training."""
    out = tmp_path_factory.mktemp("tested")
    command = [tools.test, tools.shapes, trained.work_dir, "--data-root", shapes, "--work-dir", out / "work"]
    show = ["--show-dir", out / "pictures"]
    process = python(*command, "--device", "cpu", "--out", out / "new" / "metrics.json", *show)
    return out, process.stdout


@pytest.mark.slow
def test_testing_writes_metrics_as_json(tested):
    out, output = tested
    assert [file.name for file in (out / "new").iterdir()] == ["metrics.json"]
    metrics = json.loads((out / "new" / "metrics.json").read_text())
    for name in ("coco/bbox_mAP", "coco/bbox_mAP_50", "coco/segm_mAP", "coco/segm_mAP_50"):
        assert 0 <= metrics[name] <= 1
    assert re.search(rf"^boxes +{metrics['coco/bbox_mAP']:.3f} +{metrics['coco/bbox_mAP_50']:.3f} ", output, re.M)
    assert re.search(rf"^masks +{metrics['coco/segm_mAP']:.3f} +{metrics['coco/segm_mAP_50']:.3f} ", output, re.M)
    assert str(out / "new" / "metrics.json") in output


@pytest.mark.slow
def test_testing_draws_ground_truth_next_to_prediction(tested, shapes):
    out, _ = tested
    drawn = {path.stem: path for path in (out / "pictures").iterdir()}
    assert drawn.keys() == {path.stem for path in (shapes / "val2017").iterdir()}
    for path in drawn.values():
        with Image.open(path) as both:
            truth, found = np.split(np.asarray(both, int), 2, axis=1)
        assert abs(truth - found).mean() > 1


@pytest.mark.slow
def test_a_checkpoint_gives_the_metrics_of_its_training(trained, tested):
    """The images and weights are the same, so the metrics equal the last metrics of the training."""
    metrics = json.loads((tested[0] / "new" / "metrics.json").read_text())
    assert metrics.keys() == {name for name in read_log(trained.work_dir)[-1] if name.startswith("coco/")}


@pytest.mark.slow
def test_augmented_testing_merges_the_objects_of_three_sizes_and_flips(trained, python, tools, shapes, tmp_path):
    command = [tools.test, tools.shapes, trained.work_dir, "--data-root", shapes, "--work-dir", tmp_path / "work"]
    show = ["--show-dir", tmp_path / "pictures", "--out", tmp_path / "metrics.json"]
    options = ["test_dataloader.dataset.indices=2", "model.test_cfg.rcnn.score_thr=0.0"]
    python(*command, "--device", "cpu", "--tta", *show, "--cfg-options", *options)
    (config,) = (tmp_path / "work").rglob("config.py")
    assert "InstanceTTAModel" in config.read_text()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {"coco/bbox_mAP", "coco/segm_mAP"} < metrics.keys()
    assert len(list((tmp_path / "pictures").iterdir())) == 2


# Real images, the unmodified config


@pytest.fixture(scope="module")
def real(shared, python, tools, tmp_path_factory):
    """Mask R-CNN with XCiT-S12 trained for a step on two real images, made small."""
    work_dir = tmp_path_factory.mktemp("real")
    small = "[(128,160)]"
    options = {
        "model.backbone.init_cfg": None,
        "model.test_cfg.rcnn.score_thr": 0.0,  # after one step, a detector gives only low scores
        "train_cfg.max_epochs": 1,
        "train_dataloader.dataset.indices": 2,
        "train_dataloader.num_workers": 0,
        "train_dataloader.persistent_workers": False,
        "train_dataloader.dataset.pipeline.3.transforms.0.0.scales": small,
        "train_dataloader.dataset.pipeline.3.transforms.1.2.scales": small,
        "default_hooks.checkpoint.save_optimizer": False,
        "default_hooks.logger.interval": 1,
        **{
            f"{loader}.{name}": value
            for loader in ("val_dataloader", "test_dataloader")
            for name, value in (
                ("dataset.indices", 1),
                ("num_workers", 0),
                ("persistent_workers", False),
                ("dataset.pipeline.1.scale", "(160,128)"),
            )
        },
    }
    options = ["--cfg-options", *(f"{name}={value}" for name, value in options.items())]
    root = shared / "data" / "coco128"
    command = [tools.s12, "--data-root", root, "--work-dir", work_dir, "--device", "cpu"]
    process = python(tools.train, *command, "--amp", *options)
    return work_dir, command, options, process.stdout + process.stderr


@pytest.mark.slow
def test_the_s12_config_trains_and_evaluates_on_real_images(real):
    work_dir, _, _, output = real
    assert [record["epoch"] for record in read_training_log(work_dir)] == [1]
    assert np.isfinite(read_training_log(work_dir)[0]["loss"])
    assert "\nmasks " in output
    assert (work_dir / "epoch_1.pth").is_file()
    assert (work_dir / "learning_curve.png").is_file()


@pytest.mark.slow
def test_the_s12_checkpoint_is_tested_on_real_images(real, python, tools, tmp_path):
    work_dir, command, options, _ = real
    config, *rest = command
    python(tools.test, config, work_dir / "epoch_1.pth", *rest, "--out", tmp_path / "metrics.json", *options)
    assert {"coco/bbox_mAP", "coco/segm_mAP"} <= json.loads((tmp_path / "metrics.json").read_text()).keys()


@pytest.mark.slow
def test_mmdetections_inferencer_takes_the_s12_config_and_checkpoint(real, python, tools, shared):
    work_dir, *_ = real
    image = next((shared / "data/coco128/val2017").iterdir())
    process = python(
        "-c",
        "import sys\n"
        "from mmdet.apis import DetInferencer\n"
        "config, weights, image = sys.argv[1:]\n"
        "inferencer = DetInferencer(model=config, weights=weights, device='cpu')\n"
        "print(type(inferencer.model.backbone).__name__, sorted(inferencer(image)['predictions'][0]))",
        tools.s12,
        work_dir / "epoch_1.pth",
        image,
    )
    assert process.stdout.splitlines()[-1].startswith("XCiT ['bboxes', 'labels', 'masks', 'scores']")


# Mistakes: one sentence each


def changed(**options):
    return ["--cfg-options", *(f"{name}={value}" for name, value in options.items())]


@pytest.mark.parametrize("tool", ["train", pytest.param("test", marks=pytest.mark.slow)])
def test_an_absent_config_is_refused(refusal, tools, tool):
    arguments = ["gone.py"] if tool == "train" else ["gone.py", "gone.pth"]
    assert "No config at gone.py" in refusal(getattr(tools, tool), *arguments)


@pytest.mark.slow
def test_an_absent_data_directory_is_refused(refusal, tools):
    assert "No data directory at gone" in refusal(tools.train, tools.shapes, "--data-root", "gone")


@pytest.mark.slow
def test_an_unknown_backbone_is_refused(refusal, tools, shapes):
    options = changed(**{"model.backbone.type": "XCat"})
    assert "'XCat'" in refusal(tools.train, tools.shapes, "--data-root", shapes, *options)


@pytest.mark.slow
def test_an_unknown_published_weight_is_refused(refusal, tools, shapes, tmp_path):
    init_cfg = {"type": "Pretrained", "checkpoint": "xcit://n"}
    options = changed(**{f"model.backbone.init_cfg.{name}": value for name, value in init_cfg.items()})
    sentence = refusal(
        tools.train, tools.shapes, "--data-root", shapes, "--work-dir", tmp_path, "--device", "cpu", *options
    )
    assert "'n'" in sentence
    assert "nano_12_p8_224" in sentence


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize("tool", ["train", "test"])
def test_an_absent_gpu_is_refused(refusal, tools, tool):
    weights = ["weights.pth"] if tool == "test" else []
    sentence = refusal(getattr(tools, tool), tools.shapes, *weights, "--device", "cuda")
    assert "--device cuda" in sentence
    assert "--device cpu" in sentence


@pytest.mark.slow
def test_a_resume_from_nowhere_is_refused(refusal, tools, shapes, tmp_path):
    command = [tools.train, tools.shapes, "--data-root", shapes, "--work-dir", tmp_path / "work", "--device", "cpu"]
    assert "gone.pth" in refusal(*command, "--resume", "gone.pth")
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["gone.pth", "."])
def test_absent_weights_are_refused(refusal, tools, shapes, tmp_path, weights):
    sentence = refusal(tools.test, tools.shapes, tmp_path / weights, "--data-root", shapes)
    assert str(tmp_path / weights) in sentence


@pytest.mark.slow
def test_weights_of_another_variant_are_refused_and_metrics_are_not_written(refusal, trained, tools, shapes, tmp_path):
    options = changed(**{"model.backbone.variant": "nano_12_p16"})
    command = [tools.test, tools.shapes, trained.checkpoint, "--data-root", shapes, "--work-dir", tmp_path / "work"]
    sentence = refusal(*command, "--device", "cpu", "--out", tmp_path / "metrics.json", *options)
    assert "nano_12_p16" in sentence
    assert "nano_12_p8" in sentence
    assert not (tmp_path / "metrics.json").exists()


@pytest.fixture
def in_process(monkeypatch, tmp_path):
    """Runs the file of a tool in this process, for speed. By default, the file only defines its functions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("LOCAL_RANK", "0")

    def run(tool, *arguments, name="__main__"):
        monkeypatch.setattr(sys, "argv", [str(tool), *map(str, arguments)])
        return runpy.run_path(str(tool), run_name=name)

    return run


@pytest.mark.parametrize(
    ("out", "word"), [("metrics.txt", ".json"), ("file/metrics.json", "another file"), ("d.json", "another file")]
)
def test_metrics_that_cannot_be_written_are_refused_before_the_test(in_process, tools, tmp_path, out, word):
    (tmp_path / "file").touch()
    (tmp_path / "d.json").mkdir()
    with pytest.raises(SystemExit) as ended:
        in_process(tools.test, tools.shapes, "any.pth", "--device", "cpu", "--out", out)
    assert f"--out {out}" in ended.value.code
    assert word in ended.value.code


def test_the_metric_of_a_class_without_ground_truth_is_null(tmp_path):
    write_json(tmp_path / "metrics.json", {"cat": 0.5, "dog": float("nan")})
    assert json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail) == {"cat": 0.5, "dog": None}


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["train", "test"])
def test_help_names_every_option(python, tools, tool):
    text = python(getattr(tools, tool), "--help").stdout
    own = {"train": ["--resume", "--amp", "--auto-scale-lr"], "test": ["--out", "--show-dir", "--tta"]}[tool]
    for option in ["--device", "--data-root", "--work-dir", "--cfg-options", "--launcher", *own]:
        assert option in text


def test_without_mm_libraries_the_tool_prints_what_to_install(refusal, without, tools):
    sentence = refusal(tools.train, tools.shapes, **without("mmengine", "mmcv", "mmdet", "mmseg"))
    assert 'pip install "xcit-dense[mm]"' in sentence
