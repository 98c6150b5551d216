"""``--help`` of every subcommand and tool: it does not import torch or an MM library, and works without them."""

import subprocess
import sys
from pathlib import Path

import pytest

from xcit_dense.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "torchvision", "timm", "numpy", "cv2", "mmengine", "mmcv", "mmdet", "mmseg", "matplotlib", "PIL"}
TOOLS = sorted(path.name for path in (ROOT / "tools").glob("*.py"))

CODE = """
import runpy, sys
sys.argv = {argv!r}
try:
    runpy.run_path({path!r}, run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print("loaded:", *sorted({heavy!r} & set(sys.modules)))
"""


def printed_help(path, *arguments):
    """What the program prints for ``--help``, and which heavy libraries it loads."""
    argv = [path.name, *arguments, "--help"]
    code = CODE.format(argv=argv, path=str(path), heavy=HEAVY)
    # Without site-packages, Python cannot import any library.
    process = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    text, _, loaded = process.stdout.rpartition("loaded:")
    return text, loaded.split()


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=lambda words: " ".join(words) or "none")
def test_the_help_of_a_subcommand_does_not_import_a_large_library(command):
    text, loaded = printed_help(ROOT / "xcit_dense/__main__.py", *command)
    assert text.startswith(f"usage: {' '.join(['xcit-dense', *command])}")
    assert loaded == []


@pytest.mark.parametrize("tool", TOOLS)
def test_the_help_of_a_tool_does_not_import_a_large_library(tool):
    text, loaded = printed_help(ROOT / "tools" / tool)
    assert text.startswith(f"usage: {tool}")
    assert loaded == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_is_shown_without_installed_libraries(command):
    process = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
         f"from xcit_dense.cli.main import main; main([{command!r}, '--help'])"],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert command in process.stdout
