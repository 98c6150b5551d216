"""tools/train.py and tools/test.py run segmentation configs with the commands of a user."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.helpers.runs import optimizer_steps, read_checkpoint, read_log, read_text_log, read_training_log, short_run

pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")

HEADS = ("sem_fpn", "upernet")
METRICS = {"aAcc", "mIoU", "mAcc"}

of_each_head = pytest.mark.parametrize("head", HEADS)


def written(options):
    return ["--cfg-options", *(f"{name}={value}" for name, value in options.items())]


@pytest.fixture(scope="module")
def run(train, tools):
    """A training of four iterations of the shapes config with a head."""

    def trained(head):
        config = tools.segmentation[f"{head}_xcit_n12_p8_shapes"]
        return SimpleNamespace(config=config, **vars(train(config)))

    return trained


@pytest.fixture(scope="module")
def evaluate(run, python, tools, shapes, tmp_path_factory):
    """Tests a head's training with tools/test.py; gives the metrics, the directory and the output of the run."""

    def test(head, arguments):
        out = tmp_path_factory.mktemp("tested")
        command = [tools.test, run(head).config, run(head).work_dir, "--data-root", shapes, "--work-dir", out / "work"]
        process = python(*command, "--device", "cpu", "--out", out / "new" / "metrics.json", *arguments(out))
        assert [file.name for file in (out / "new").iterdir()] == ["metrics.json"]
        metrics = json.loads((out / "new" / "metrics.json").read_text())
        assert metrics.keys() == METRICS
        assert all(0 <= value <= 100 for value in metrics.values())
        return SimpleNamespace(out=out, metrics=metrics, output=process.stdout)

    return test


# Training


@pytest.mark.slow
@of_each_head
def test_training_writes_checkpoint_log_and_curve(head, run):
    trained = run(head)
    checkpoint = read_checkpoint(trained.checkpoint)
    assert checkpoint["meta"]["iter"] == 4
    assert any(name.startswith("backbone.blocks.11.") for name in checkpoint["state_dict"])
    assert optimizer_steps(trained.checkpoint) == {4}
    assert [record["iter"] for record in read_training_log(trained.work_dir)] == [1, 2, 3, 4]
    assert all(np.isfinite(record["loss"]) for record in read_training_log(trained.work_dir))
    assert ("aux.loss_ce" in read_training_log(trained.work_dir)[0]) == (head == "upernet")
    assert read_log(trained.work_dir)[-1].keys() >= METRICS
    with Image.open(trained.work_dir / "learning_curve.png") as image:
        assert min(image.size) > 300
    for word in ("mIoU", str(trained.work_dir / "learning_curve.png")):
        assert word in trained.output
    assert "star" in read_text_log(trained.work_dir), "not in the table of classes"


@pytest.mark.slow
def test_resuming_continues_from_the_last_checkpoint(run, python, tools, shapes, tmp_path):
    trained = run("sem_fpn")
    (tmp_path / "iter_4.pth").symlink_to(trained.checkpoint)
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "iter_4.pth"))
    command = [tools.train, trained.config, "--data-root", shapes, "--work-dir", tmp_path, "--device", "cpu"]
    python(*command, "--resume", *short_run(6))
    assert [record["iter"] for record in read_training_log(tmp_path)] == [5, 6]
    assert optimizer_steps(tmp_path / "iter_6.pth") == {6}
    rates = [record["lr"] for record in read_training_log(trained.work_dir) + read_training_log(tmp_path)]
    assert rates == sorted(set(rates)), "the warm-up began again"


# Testing


@pytest.fixture(scope="module")
def tested(evaluate):
    """The output of tools/test.py for Semantic FPN, with drawings."""
    return evaluate("sem_fpn", lambda out: ["--show-dir", out / "pictures"])


@pytest.mark.slow
def test_a_checkpoint_gives_the_metrics_of_its_training(tested, run):
    last = read_log(run("sem_fpn").work_dir)[-1]
    assert tested.metrics == pytest.approx({name: last[name] for name in METRICS})
    for word in (*METRICS, str(tested.out / "new" / "metrics.json")):
        assert word in tested.output


@pytest.mark.slow
def test_testing_draws_ground_truth_next_to_prediction(tested, shapes):
    drawn = {path.stem: path for path in (tested.out / "pictures").iterdir()}
    assert drawn.keys() == {path.stem for path in (shapes / "val2017").iterdir()}
    for path in drawn.values():
        with Image.open(path) as both:
            truth, found = np.split(np.asarray(both, int), 2, axis=1)
        assert abs(truth - found).mean() > 1


@pytest.mark.slow
def test_upernet_is_tested_in_windows_where_asked(evaluate, run):
    options = {"mode": "slide", "crop_size": "(96,96)", "stride": "(48,48)"}
    tested = evaluate(
        "upernet", lambda out: written({f"model.test_cfg.{key}": value for key, value in options.items()})
    )
    last = read_log(run("upernet").work_dir)[-1]
    assert tested.metrics != pytest.approx({name: last[name] for name in METRICS}), "not in windows"


@pytest.mark.slow
def test_augmented_testing_averages_over_sizes_and_flips(evaluate):
    tested = evaluate("sem_fpn", lambda out: ["--tta", *written({"test_dataloader.dataset.indices": 2})])
    (config,) = (tested.out / "work").rglob("config.py")
    assert "SegTTAModel" in config.read_text()
    assert "TestTimeAug" in config.read_text()


@pytest.mark.slow
def test_augmented_testing_without_sizes_in_the_config_is_refused(refusal, tools, shapes, tmp_path):
    (tmp_path / "any.pth").touch()
    command = [tools.test, tools.shapes, tmp_path / "any.pth", "--data-root", shapes, "--tta"]
    sentence = refusal(*command, *written({"tta_model": None}))
    assert "--tta needs tta_model and tta_pipeline" in sentence
    assert "ade20k.py" in sentence


# Real images, the unmodified configs


@pytest.fixture(scope="module", params=HEADS)
def real(request, shared, python, tools, tmp_path_factory):
    """A head with XCiT-N12 trained for two steps on real images, made small."""
    work_dir = tmp_path_factory.mktemp("real")
    small = "(64,64)"
    options = {
        "model.backbone.init_cfg": None,
        "model.data_preprocessor.size": small,
        "train_cfg.max_iters": 2,
        "train_cfg.val_interval": 2,
        "train_dataloader.num_workers": 0,
        "train_dataloader.persistent_workers": False,
        "train_dataloader.dataset.pipeline.2.scale": "(256,64)",
        "train_dataloader.dataset.pipeline.3.crop_size": small,
        "default_hooks.checkpoint.interval": 2,
        "default_hooks.checkpoint.save_optimizer": False,
        "default_hooks.logger.interval": 1,
        **{
            f"{loader}.{name}": value
            for loader in ("val_dataloader", "test_dataloader")
            for name, value in (
                ("dataset.indices", 2),
                ("num_workers", 0),
                ("persistent_workers", False),
                ("dataset.pipeline.1.scale", "(256,64)"),
            )
        },
    }
    root = shared / "data" / "ADEChallengeData2016"
    command = [tools.segmentation[f"{request.param}_xcit_n12"], "--data-root", root, "--device", "cpu"]
    process = python(tools.train, *command, "--work-dir", work_dir, *written(options))
    return SimpleNamespace(
        work_dir=work_dir, command=command, options=written(options), output=process.stdout + process.stderr
    )


@pytest.mark.slow
def test_the_config_trains_and_evaluates_on_real_images(real):
    assert [record["iter"] for record in read_training_log(real.work_dir)] == [1, 2]
    assert all(np.isfinite(record["loss"]) for record in read_training_log(real.work_dir))
    assert read_log(real.work_dir)[-1].keys() >= METRICS
    assert "windowpane" in real.output, "not the classes of ADE20K"
    assert (real.work_dir / "iter_2.pth").is_file()
    assert (real.work_dir / "learning_curve.png").is_file()


@pytest.mark.slow
def test_the_checkpoint_is_tested_on_real_images(real, python, tools, tmp_path):
    config, *rest = real.command
    command = [
        tools.test,
        config,
        real.work_dir,
        *rest,
        "--work-dir",
        tmp_path / "work",
        "--out",
        tmp_path / "new.json",
    ]
    python(*command, *real.options)
    metrics = json.loads((tmp_path / "new.json").read_text())
    assert metrics == pytest.approx({name: read_log(real.work_dir)[-1][name] for name in METRICS}, nan_ok=True)
