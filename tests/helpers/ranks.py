"""Runs a module of the tests in several processes, which connect with each other."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A library may have installed a package named `tests`, which Python would find in place of this directory.
START = """
import runpy, sys, types
sys.modules["tests"] = types.ModuleType("tests")
sys.modules["tests"].__path__ = [sys.argv[1]]
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def run_ranks(module, processes, directory, *arguments):
    """Runs a module in some processes with the ranks 0, 1, ..., and waits for them.

    Args:
        module: The name of the module, which gets the directory and the arguments. Its rank is in `RANK`.
        processes: The number of processes.
        directory: A directory for the files of the processes.
        *arguments: Further arguments.
    """
    command = [sys.executable, "-c", START, str(ROOT / "tests"), module, str(directory), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    log = directory / "log"
    with log.open("w") as output:  # not into pipes, because a full pipe without a reader would block its process
        started = [
            subprocess.Popen(
                command, env={**environment, "RANK": str(rank)}, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
            )
            for rank in range(processes)
        ]
    try:
        status = [process.wait(900) for process in started]
    finally:
        for process in started:
            process.kill()
    assert status == [0] * processes, log.read_text()[-5000:]
