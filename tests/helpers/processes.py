"""Processes that are joined by torch.distributed, without GPUs."""

import os
import subprocess
import sys
from pathlib import Path


def run_processes(module, count, *words):
    """Runs a module of the tests in several processes with the words as its arguments. Each one has RANK."""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *map(str, words)]
    processes = [subprocess.Popen(command, env={**environment, "RANK": str(rank)}, cwd=root) for rank in range(count)]
    try:
        assert [process.wait(900) for process in processes] == [0] * count
    finally:
        for process in processes:
            process.kill()
