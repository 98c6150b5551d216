"""The disk and the memory of windows are what the arithmetic of docs/large_images.md states."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tifffile", reason="tifffile is not installed")
pytest.importorskip("rasterio", reason="rasterio is not installed")

from tests.helpers.models import raises_user_error
from tests.helpers.windows import PixelEngine
from xcit_dense.inference.windows.blend import stored_bytes
from xcit_dense.inference.windows.plan import Plan
from xcit_dense.inference.windows.run import Options, run
from xcit_dense.media.images import write_image
from xcit_dense.media.inputs import find_media

ROOT = Path(__file__).parents[3]


@pytest.fixture
def media(tmp_path):
    """An image of 300 x 500 pixels."""
    write_image(tmp_path / "big.png", np.full((300, 500, 3), 90, np.uint8))
    return find_media([str(tmp_path / "big.png")])


class Watched(PixelEngine):
    """A model that measures the files of the run whenever it predicts."""

    def score(self, windows):
        files = [path.stat() for path in (self.out / "parts").rglob("*") if path.is_file()]
        self.sizes = [*getattr(self, "sizes", []), sum(file.st_size for file in files)]
        return super().score(windows)


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("overlap", [0, 8, 64])
def test_a_run_takes_the_disk_that_is_stated(tmp_path, media, overlap, scores):
    engine = Watched()
    engine.out = tmp_path / "out"
    run(engine, media, engine.out, Options(side=128, overlap=overlap, scores=scores))
    stated = stored_bytes(Plan(300, 500, 128, overlap), 2, scores)
    assert stated <= max(engine.sizes) <= stated + 10_000  # headers, and the journal


@pytest.mark.parametrize("scores", [False, True])
def test_a_disk_without_space_is_refused_before_a_window_is_predicted(tmp_path, media, monkeypatch, scores):
    needed = stored_bytes(Plan(300, 500, 128, 16), 2, scores)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": needed - 1})())
    engine = PixelEngine()
    with raises_user_error(f"needs {needed:,} bytes", "free some space"):
        run(engine, media, tmp_path / "out", Options(side=128, overlap=16, scores=scores))
    assert engine.calls == 0


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from tests.helpers.memory import Peak
from tests.helpers.windows import PixelEngine
from xcit_dense.inference.windows.run import Options, run
from xcit_dense.media.inputs import find_media

class Engine(PixelEngine):
    classes = tuple(map(str, range(40)))
    palette = ((0, 0, 0),) * 40
    def score(self, windows):
        return [np.full((40, *one.shape[:2]), 1 / 40, np.float32) for one in windows]

for side in (128, 512):
    with Peak() as peak:
        options = Options(side=side, overlap=side // 8, preview=False)
        run(Engine(), find_media([sys.argv[1]]), Path(sys.argv[2], str(side)), options)
    print(peak.bytes)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.slow
def test_the_scores_of_a_window_take_twenty_bytes_for_each_pixel_and_class(tmp_path):
    write_image(tmp_path / "big.png", np.full((640, 640, 3), 90, np.uint8))
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "big.png"), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    small, large = map(int, done.stdout.split()[-2:])
    assert large - small == pytest.approx(20 * 40 * (512**2 - 128**2), rel=0.2)
