"""The memory of prediction by windows does not grow with the image."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
pytest.importorskip("rasterio", reason="rasterio is not installed")

ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys, threading, time
from pathlib import Path
from tests.helpers.windows import PixelEngine
from xcit_dense.inference.windows.run import Options, run
from xcit_dense.media.inputs import find_media

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1])

peak = 0
def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.005)

threading.Thread(target=watch, daemon=True).start()
path, out, segments = sys.argv[1:]
run(PixelEngine(segments == "True"), find_media([path]), Path(out), Options(side=512, overlap=64))
print("peak", peak)
"""


def peak(tmp_path, size, segments):
    """The peak of memory without file-backed pages in KiB, for an image with one rectangle in each 512 pixels."""
    path = tmp_path / f"{size}.tif"
    if not path.exists():
        tile = np.full((512, 512, 3), 20, np.uint8)
        tile[100:200, 300:600] = 220
        tiles = (tile for _ in range((size // 512) ** 2))
        options = {"tile": (512, 512), "photometric": "rgb", "compression": "deflate"}
        tifffile.imwrite(path, tiles, shape=(size, size, 3), dtype=np.uint8, **options)
    command = [sys.executable, "-c", SCRIPT, path, tmp_path / f"{size}-{segments}", segments]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split("peak")[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("segments", [True, False])
def test_the_memory_of_four_times_the_pixels_is_the_same(tmp_path, segments):
    small, large = peak(tmp_path, 4096, segments), peak(tmp_path, 8192, segments)
    # GDAL's cache of 64 MB has 50 MB of the smaller image. The label map of the larger image has 50 MB more.
    assert large - small < 32 * 1024, (small, large)
