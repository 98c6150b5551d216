"""Several processes on CPU learn the same weights as one process with the full batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.models import assert_close

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")

SCRIPT = Path(__file__).with_name("trainings.py")
pytestmark = pytest.mark.slow


def train(directory, processes, *names):
    """Runs trainings one after another, with this number of processes."""
    command = [sys.executable, str(SCRIPT), str(directory), "none" if processes == 1 else "pytorch", *names]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    started, log = [], directory / "log"
    for rank in range(processes):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)} if processes > 1 else {}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **address, **ranks}
        # Into a file, because a full pipe without a reader would block a process, and then the other process.
        with log.open("a") as output:
            started.append(subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT))
    try:
        status = [process.wait(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    assert status == [0] * processes, log.read_text()[-5000:]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """Trainings by one process, four images a step."""
    directory = tmp_path_factory.mktemp("single")
    train(directory, 1, "whole", "clipped", "batch_statistics", "segmentor")
    return directory


@pytest.fixture(scope="module")
def together(tmp_path_factory, single):
    """The same trainings by two processes, two images each a step, and trainings with a sharded model."""
    directory = tmp_path_factory.mktemp("together")
    start = weights(single / "clipped")
    torch.save({"state_dict": {f"module.{name}": value + 1 for name, value in start.items()}}, directory / "start.pth")
    data_parallel = "whole", "batch_statistics", "segmentor"
    shards = "shards", "shards_resumed", "shards_loaded", "shards_kept", "shards_recomputed", "shards_with_cp"
    train(directory, 2, *data_parallel, *shards)
    return directory


def read(directory, step=3):
    return torch.load(directory / f"iter_{step}.pth", weights_only=False)


def weights(directory):
    return read(directory)["state_dict"]


def same(got, expected, rtol=1e-4, atol=1e-6):
    assert got.keys() == expected.keys()
    for name in got:
        torch.testing.assert_close(got[name], expected[name], rtol=rtol, atol=atol)


@pytest.mark.parametrize("model", ["whole", "segmentor"])
def test_averaged_gradients_equal_the_gradients_of_one_process_with_the_full_batch(single, together, model):
    got, expected = (torch.load(directory / f"{model}.pth") for directory in (together, single))
    assert_close(got, expected, 1e-4)


def test_plain_batch_norm_sees_the_images_of_its_own_process(single, together):
    """Synchronised batch norm on GPUs prevents this, so the test above has fixed statistics."""
    got, expected = (torch.load(directory / "batch_statistics.pth") for directory in (together, single))
    assert (got - expected).abs().max() > 0.01 * expected.std()


def test_a_sharded_model_learns_the_same_weights_as_an_unsharded_model(single, together):
    """Gradients are clipped by the norm of all shards. Checkpoints are unsharded and have plain names."""
    same(weights(together / "shards"), weights(single / "clipped"))


def test_a_training_in_shards_resumes_as_if_never_stopped(together):
    same(weights(together / "shards_resumed"), weights(together / "shards"))
    assert read(together / "shards_resumed")["meta"]["iter"] == 3


def test_a_sharded_model_starts_from_any_unsharded_checkpoint(single, together):
    """The checkpoint is from an unsharded training, with 1 added to each weight."""
    expected = {name: value + 1 for name, value in weights(single / "clipped").items()}
    same(weights(together / "shards_loaded"), expected)


@pytest.mark.parametrize("way", ["shards_recomputed", "shards_with_cp"])
def test_recomputed_blocks_learn_the_same_weights_as_blocks_without_recompute(together, way):
    """The statistics of batch norms count each batch once."""
    same(weights(together / way), weights(together / "shards_kept"))


def test_hooks_run_with_shards(together):
    assert (together / "shards/learning_curve.png").is_file()
