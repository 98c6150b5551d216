"""The disk and the memory of streaming are what the arithmetic of docs/large_images.md states."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.models import random_images, tiny_xcit
from xcit_dense import XCiT, stream
from xcit_dense.streaming.levels import level_shapes
from xcit_dense.streaming.shard import communication
from xcit_dense.streaming.stream import stored_bytes

ROOT = Path(__file__).parents[2]
on_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory is read from /proc")


def mapped_bytes(directory):
    """The bytes of the files of a directory that this process has mapped into its memory."""
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        if str(directory) in line:
            start, end = line.split()[0].split("-")
            total += int(end, 16) - int(start, 16)
    return total


@on_linux
@pytest.mark.parametrize("indices", [(0, 1, 2, 3), (0, 2, 2, 3)])
def test_streaming_takes_the_disk_that_is_stated(tmp_path, indices):
    backbone = tiny_xcit(out_indices=indices).eval()
    with stream(backbone, random_images(1, 3, 256, 512), directory=tmp_path):
        assert mapped_bytes(tmp_path) == stored_bytes(backbone, 256, 512) == len({*indices}) * 32 * 64 * 16 * 4


STRIPS = """
import torch
from tests.helpers.memory import Peak
from tests.helpers.models import tiny_xcit
from xcit_dense import deploy, stream

backbone, image = deploy(tiny_xcit(patch_size=16, embed_dim=64).eval()), torch.zeros(1, 3, 2048, 1024)
for megabytes in (4, 4, 24):  # the first run fills the caches
    with Peak() as peak, stream(backbone, image, memory=megabytes * 10**6, directory="."):
        pass
    print(peak.bytes)
"""

TILES = """
import torch
from torch import nn
from tests.helpers.memory import Peak
from xcit_dense.rasters.window import Window
from xcit_dense.streaming.maps import Add, Apply, Enlarge, Level

class Levels:
    shapes = ((32, 1024, 1024), (32, 512, 512))
    def read(self, level, window):
        return torch.zeros(1, 32, window.height, window.width)

fine, coarse = (Apply(Level(Levels(), index), nn.Conv2d(32, 32, 3, padding=1), 32, halo=1) for index in (0, 1))
features = Add(fine, Enlarge(coarse, 1024, 1024))
logits = Enlarge(Apply(features, nn.Conv2d(32, 8, 1), 8), 4096, 4096)
with torch.no_grad():
    for side in (256, 256, 1024):
        window = Window(1024, 1024, side, side)
        with Peak() as peak:
            logits.read(window)
        print(peak.bytes, logits.bytes_for(window))
"""


def run(script, directory):
    """Runs a script; returns the numbers that it prints."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{script}"
    done = subprocess.run([sys.executable, "-c", code], cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@on_linux
@pytest.mark.slow
@pytest.mark.long
def test_a_strip_takes_about_the_memory_that_it_may_take(tmp_path):
    _, small, large = run(STRIPS, tmp_path)
    assert large - small == pytest.approx(20e6, rel=0.4)


@on_linux
@pytest.mark.slow
@pytest.mark.long
def test_a_tile_takes_at_most_the_memory_that_is_computed(tmp_path):
    *_, small, stated_small, large, stated_large = run(TILES, tmp_path)
    assert 0.4 * (stated_large - stated_small) < large - small < 1.1 * (stated_large - stated_small)


SIZE = {"MB": 1e6, "GB": 1e9}


def test_the_table_of_the_page_has_the_numbers_of_the_functions():
    """The columns: image, disk of --stream, halos, levels and MLPs in 8 and in 64 processes."""
    section = (ROOT / "docs/large_images.md").read_text().partition("Computed for `small_12_p16` in fp32:")[2]
    rows = re.findall(r"^\| ([\d,]+) x [\d,]+ \|(.*)\|$", section, re.M)
    assert len(rows) == 3
    backbone = XCiT("small_12_p16")
    for side, cells in rows:
        side = int(side.replace(",", ""))
        tokens = -(-side // 16)
        levels = 4 * sum(
            channels * height * width for channels, height, width in level_shapes(backbone, tokens, tokens)
        )
        hidden = 4 * 2 * 4 * backbone.embed_dim * tokens**2  # the MLP's four times as many channels, and their GELU
        disk = stored_bytes(backbone, side, side) + side**2
        exact = [disk, communication(backbone, side).halos, (levels + hidden) / 8, (levels + hidden) / 64]
        for cell, expected in zip(cells.split("|"), exact):
            if cell.strip():
                number, unit = cell.split()
                assert float(number) * SIZE[unit] == pytest.approx(expected, rel=0.05)


def test_the_formulas_of_the_page_are_those_of_the_functions():
    backbone = XCiT("small_12_p16")
    blocks, channels, rows, columns = 12, 384, 70, 50
    moved = communication(backbone, 16 * columns)
    assert moved.covariances == pytest.approx(4 * blocks * (channels + 1) ** 2)
    assert moved.halos == 16 * blocks * channels * columns
    levels = level_shapes(backbone, 64, 32)
    assert 4 * sum(c * h * w for c, h, w in levels) == pytest.approx(85 * 64 * 32 * channels, rel=0.01)
    assert stored_bytes(backbone, 16 * rows, 16 * columns) == 4 * 4 * rows * columns * channels
