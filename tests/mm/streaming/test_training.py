"""A training step of a segmentor with its images divided over processes equals a step of one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")

from tests.mm.streaming.sharded_training import CASES, step


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def processes(request, tmp_path_factory):
    """Runs a step of all cases in two or three processes. Returns the results of each process."""
    directory = tmp_path_factory.mktemp("training")
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.mm.streaming.sharded_training", str(directory), str(request.param)]
    started = [
        subprocess.Popen(command, env={**environment, "RANK": str(rank)}, cwd=root) for rank in range(request.param)
    ]
    try:
        assert [process.wait(900) for process in started] == [0] * request.param
    finally:
        for process in started:
            process.kill()
    return [torch.load(directory / f"{rank}.pt", weights_only=False) for rank in range(request.param)]


@pytest.mark.parametrize("case", CASES)
def test_losses_gradients_and_statistics_equal_one_process(processes, case):
    values, gradients, buffers = step("FusedEncoderDecoder", case)
    for found_values, found_gradients, found_buffers in (results[case] for results in processes):
        assert found_values == pytest.approx(values, rel=1e-6)
        for name, gradient in gradients.items():
            assert (found_gradients[name] - gradient).norm() <= 1e-6 * gradient.norm() + 1e-9, name
        for name, buffer in buffers.items():
            assert torch.allclose(found_buffers[name], buffer, rtol=1e-6, atol=1e-9), name
