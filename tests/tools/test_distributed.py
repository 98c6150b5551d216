"""The commands of docs/training.md for several processes train and test, here with two processes without GPUs."""

import json
import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.helpers.runs import read_training_log, short_run

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")

pytestmark = pytest.mark.slow

GUIDE = Path(__file__).parents[2] / "docs/training.md"
# Runs a tool whose rank 0 makes the directory of IoUMetric three seconds late.
LATE_RANK_0 = """
import os, runpy, sys, time
from mmseg.evaluation.metrics import iou_metric

make = iou_metric.mkdir_or_exist

def make_late(*arguments, **options):
    time.sleep(3)
    make(*arguments, **options)

if os.environ["RANK"] == "0":
    iou_metric.mkdir_or_exist = make_late
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# The segmentor takes twice as long as the detector.
TASKS = ["detection", pytest.param("segmentation", marks=pytest.mark.long)]
SHARDS, RECOMPUTED = "strategy.type=XCiTFSDPStrategy", "strategy.activation_checkpointing=True"


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture(scope="module")
def documented():
    """The shortest command of the guide with all these words, for our config and, for a test, our weights."""
    text = GUIDE.read_text().replace("\\\n", " ")
    commands = [line.split() for line in text.splitlines() if line.startswith(("    torchrun ", "    srun "))]

    def command(*words, config, weights=None):
        found = min((line for line in commands if {*words} <= {*line}), key=len)
        of_ours = {"8": "2"} | {word: config for word in found if word.startswith("upernet_")}
        of_ours |= {word: weights for word in found if word.startswith("work_dirs/")}
        return [of_ours.get(word, word) for word in found]

    return command


@pytest.fixture(scope="module")
def torchrun(python):
    """Runs a command that begins with torchrun."""

    def run(command, *options):
        launch = ["-m", "torch.distributed.run", "--master-port", free_port(), *command[1:]]
        return python(*launch, "--device", "cpu", *options)

    return run


@pytest.fixture(scope="module")
def srun(tmp_path_factory):
    """Runs a command that begins with srun, by two processes with the variables that Slurm sets for a node's tasks."""
    directory = tmp_path_factory.mktemp("slurm")
    scontrol = directory / "scontrol"  # Slurm uses scontrol to list the names of the nodes
    scontrol.write_text("#!/bin/sh\necho 127.0.0.1\n")
    scontrol.chmod(0o755)

    def run(command, *options):
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PATH": os.pathsep.join([str(directory), os.environ["PATH"]]),
            "SLURM_NTASKS": "2",
            "SLURM_NODELIST": "node[1]",
            "MASTER_PORT": free_port(),
        }
        program = [sys.executable, *command[command.index("python") + 1 :], "--device", "cpu", *options]
        log = directory / "log"
        with log.open("w") as output:  # not into pipes, because a full pipe without a reader would block its process
            started = [
                subprocess.Popen(
                    [*map(str, program)],
                    cwd=directory,
                    env={**environment, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
                for rank in range(2)
            ]
        try:
            status = [process.wait(timeout=300) for process in started]
        finally:
            for process in started:
                process.kill()
        assert status == [0, 0], log.read_text()[-3000:]

    return run


@pytest.fixture(scope="module")
def run(tools, documented, torchrun, srun, python, shapes, tmp_path_factory):
    """Trains a task with two processes for two steps, and tests it with one and with two on three images.

    Slurm starts the detector's training. The segmentor's is in shards, its second step with blocks recomputed. Necks
    and heads ask for the SyncBN of GPUs.
    """

    def train_detector(config, options):
        options = [*options, *short_run(2, **{"train_dataloader.batch_size": 1, "model.neck.norm_cfg.type": "SyncBN"})]
        srun(documented("srun", "train", config=config), *options)

    def train_segmentor(config, options):
        changes = {"train_dataloader.batch_size": 1, "model.decode_head.norm_cfg.type": "SyncBN"}
        torchrun(documented("train", SHARDS, config=config), *options, *short_run(1, **changes))
        torchrun(
            documented("train", SHARDS, RECOMPUTED, config=config),
            *options,
            "--resume",
            *short_run(2, **changes),
        )

    segmentor = tools.segmentation["sem_fpn_xcit_n12_p8_shapes"]
    trainings = {"detection": (tools.shapes, train_detector), "segmentation": (segmentor, train_segmentor)}

    @cache
    def run(task):
        config, train = trainings[task]
        directory = tmp_path_factory.mktemp(task)
        data = ["--data-root", shapes]
        train(config, [*data, "--work-dir", directory / "work"])

        def uneven(name):
            options = [*data, "--work-dir", directory / "test", "--out", directory / f"{name}.json"]
            options += ["--cfg-options", "test_dataloader.dataset.indices=3"]
            if task == "detection":  # after two steps all scores are low, and the average precision is 0
                options += ["model.test_cfg.rcnn.score_thr=0.0", f"test_evaluator.outfile_prefix={directory / name}"]
            else:
                options += [f"test_evaluator.output_dir={directory / name}"]
            return options

        python(tools.test, config, directory / "work", "--device", "cpu", *uneven("one"))
        command = documented("test", config=config, weights=directory / "work")
        if task == "segmentation":  # all processes have to wait for the directory that rank 0 makes
            late = directory / "late.py"
            late.write_text(LATE_RANK_0)
            place = command.index("-m")  # -m xcit_dense test
            command[place : place + 3] = [late, tools.test]
        torchrun(command, *uneven("two"))
        one, two = (json.loads((directory / f"{name}.json").read_text()) for name in ("one", "two"))
        return SimpleNamespace(directory=directory, work_dir=directory / "work", one=one, two=two)

    return run


@pytest.mark.parametrize("task", TASKS)
def test_two_processes_test_as_one_does(run, task):
    """Three images, so that one process has one more than the other."""
    assert len(run(task).one) > 2
    assert run(task).two == pytest.approx(run(task).one, abs=1e-6)


def test_two_processes_find_the_objects_that_one_finds(run):
    one, two = (json.loads((run("detection").directory / f"{name}.bbox.json").read_text()) for name in ("one", "two"))
    assert len(one) > 10
    assert len({box["image_id"] for box in one}) == 3
    for got, expected in zip(two, one, strict=True):
        assert got["image_id"] == expected["image_id"]
        assert got["category_id"] == expected["category_id"]
        assert [*got["bbox"], got["score"]] == pytest.approx([*expected["bbox"], expected["score"]], abs=1e-3)


@pytest.mark.long
def test_two_processes_label_the_pixels_that_one_labels(run):
    one, two = (
        {path.name: path.read_bytes() for path in (run("segmentation").directory / name).glob("*.png")}
        for name in ("one", "two")
    )
    assert len(one) == 3
    assert two == one


@pytest.mark.parametrize("task", TASKS)
def test_two_processes_train_into_one_directory(run, task):
    work_dir = run(task).work_dir
    assert [record["iter"] for record in read_training_log(work_dir)] == [1, 2]
    assert (work_dir / "learning_curve.png").is_file()
    assert len(list(work_dir.glob("*/*.log"))) == (1 if task == "detection" else 2), "one a run"
