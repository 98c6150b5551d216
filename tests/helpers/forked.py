"""Runs a Python file in a forked process that has imported the MM libraries already, because the import takes long.

The processes are forked from a process of their own, without threads, by the standard library's `forkserver`.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys

PRELOADED = ["mmdet.apis", "mmseg.apis", "xcit_dense.mm", "xcit_dense.cli.main"]
CHILD = "forked child"


def run(arguments, cwd, output, environment=None):
    """Runs a Python file, and waits for its end.

    Args:
        arguments: The path of the file and its arguments.
        cwd: The directory to run in.
        output: An empty directory, for the output.
        environment: The environment variables; by default those of this process.

    Returns:
        The result, as that of `subprocess.run`.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    arguments = [str(argument) for argument in arguments]
    task = {"task": (arguments, str(cwd), str(output), dict(environment or os.environ))}
    # The forked process runs this file by its path, because a library may have installed a package named `tests`.
    process = context.Process(target=runpy.run_path, args=(__file__, task, CHILD))
    process.start()
    process.join(600)
    if process.is_alive():
        process.kill()
        process.join()
    texts = [(output / name).read_text() for name in ("stdout", "stderr")]
    return subprocess.CompletedProcess(arguments, process.exitcode, *texts)


def run_here(arguments, cwd, output, environment):
    """Runs a Python file in this process."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(f"{output}/{name}", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment, OMP_NUM_THREADS="1")
    os.chdir(cwd)
    import torch

    torch.set_num_threads(1)
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == CHILD:
    run_here(*task)  # noqa: F821
