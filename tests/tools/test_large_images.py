"""A large image, from chips to a model: the commands of docs/large_images.md, as they are written there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("rasterio", reason="the extra [large] is not installed")

ROOT = Path(__file__).parents[2]


def commands(title):
    """The commands of a section of the page."""
    page = (ROOT / "docs/large_images.md").read_text()
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    return "\n".join(re.findall(r"^```bash\n(.*?)^```", sections[title], re.M | re.S))


@pytest.mark.slow
def test_the_chips_of_the_page_are_cut_and_trained_on(tmp_path):
    process = subprocess.run(
        ["bash", "-e", "-c", commands("Training chips")],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
    )
    output = process.stdout + process.stderr
    assert process.returncode == 0, output[-3000:]
    assert "48 chips for training, 16 for validation" in output
    assert "Classes: 5 (background, circle, square, triangle, star)" in output
    assert (tmp_path / "work_dirs/chips/iter_4.pth").exists()
