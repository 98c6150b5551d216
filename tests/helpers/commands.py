"""Runs commands of the pages without a new import of the MM libraries by each command."""

import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from multiprocessing.connection import Listener
from pathlib import Path

from tests.helpers import forked

MAIN = Path(__file__).parents[2] / "xcit_dense/__main__.py"
COMMAND = """#!{python}
import os, sys
from multiprocessing.connection import Client

with Client({address!r}) as connection:
    connection.send((sys.argv[1:], os.getcwd(), dict(os.environ)))
    status, out, err = connection.recv()
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(status)
"""


def run_commands(commands, cwd, directory):
    """Runs lines of bash, on the CPU. Each ``xcit-dense`` in them runs in a forked process.

    The import of the libraries takes longer than most of the commands. Tests of other pages run the same subcommands in
    new interpreters.

    Args:
        commands: The lines.
        cwd: The directory in which the lines run.
        directory: An empty directory for the outputs.

    Returns:
        The result, as that of `subprocess.run`.
    """
    with _served(directory) as programs:
        path = f"{programs}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run(
            ["bash", "-e", "-c", commands], cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )


@contextmanager
def _served(directory):
    """Gives a directory with a program ``xcit-dense``, which asks this process to fork a process for each command."""
    programs = directory / "bin"
    programs.mkdir()
    with Listener() as listener:
        program = programs / "xcit-dense"
        program.write_text(COMMAND.format(python=sys.executable, address=listener.address))
        program.chmod(0o755)
        thread = threading.Thread(target=_serve, args=(listener, directory))
        thread.start()
        try:
            yield programs
        finally:
            if thread.is_alive():  # an error of this process ends the thread early
                subprocess.run([program, "end"], check=True)
            thread.join()


def _serve(listener, directory):
    number = 0
    while True:
        with listener.accept() as connection:
            arguments, cwd, environment = connection.recv()
            if arguments == ["end"]:
                connection.send((0, "", ""))
                return
            output = directory / str(number)
            output.mkdir()
            done = forked.run([MAIN, *arguments], cwd, output, environment)
            connection.send((done.returncode, done.stdout, done.stderr))
            number += 1
