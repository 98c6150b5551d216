"""predict and test go by windows: a georeferenced label map, objects on the map, and the metric of the same windows."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
pytest.importorskip("rasterio", reason="rasterio is not installed")

import rasterio

from tests.helpers.tiny import write_work_dir
from tests.mm.streaming.test_predict import complete_logits
from xcit_dense.mm.inference.load import load_window_engine

CRS, TRANSFORM = "EPSG:32632", (0.5, 0.0, 500_000.0, 0.0, -0.5, 5_000_000.0)


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A GeoTIFF of 150 x 200 pixels; the last 70 columns do not have data."""
    path = tmp_path_factory.mktemp("town") / "town.tif"
    pixels = np.random.default_rng(0).integers(1, 256, (3, 150, 200), np.uint8)
    pixels[..., 130:] = 0
    options = {"height": 150, "width": 200, "count": 3, "dtype": "uint8", "nodata": 0, "crs": CRS}
    with rasterio.open(path, "w", transform=rasterio.Affine(*TRANSFORM), **options) as file:
        file.write(pixels)
    return path


@pytest.mark.slow
@pytest.mark.both
def test_a_geotiff_becomes_a_label_map_in_the_same_place(python, town, tmp_path):
    work_dir = write_work_dir("segmentation", tmp_path / "work")
    command = ["-m", "xcit_dense", "predict", work_dir, town, "--out", tmp_path / "out", "--device", "cpu"]
    done = python(*command, "--window", 64, "--overlap", 16, "--batch", 2, "--scores")
    assert "1 images, 12 windows, 3 of them without data" in done.stdout
    with rasterio.open(tmp_path / "out/labels/town.tif") as file:
        assert (file.crs, tuple(file.transform)[:6]) == (rasterio.CRS.from_string(CRS), TRANSFORM)
        labels = file.read(1)
    assert labels[:, :130].max() < 5
    assert (labels[:, 130:] == 255).all()
    with rasterio.open(tmp_path / "out/scores/town.tif") as file:
        scores = file.read()
    np.testing.assert_allclose(scores[:, :, :130].sum(axis=0), 1, atol=0.01)
    assert (scores[:, :, :130].argmax(axis=0) == labels[:, :130]).mean() > 0.99
    assert (tmp_path / "out/previews/town.jpg").exists()


@pytest.mark.slow
def test_objects_are_on_the_map_and_in_the_json_files(python, town, tmp_path):
    work_dir = write_work_dir("detection", tmp_path / "work")
    command = ["-m", "xcit_dense", "predict", work_dir, town, "--out", tmp_path / "out", "--device", "cpu"]
    python(*command, "--window", 64, "--score-thr", 0.05, "--no-draw")
    results = json.loads((tmp_path / "out/results.json").read_text())
    features = json.loads((tmp_path / "out/objects/town.geojson").read_text())["features"]
    assert len(features) == len(results) > 0
    assert results[0]["segmentation"]["size"] == [150, 200]
    assert not (tmp_path / "out/previews").exists()


@pytest.mark.slow
@pytest.mark.parametrize("task", [pytest.param("detection", marks=pytest.mark.long), "segmentation"])
def test_a_test_by_windows_reports_the_metric(python, tools, shapes, task, tmp_path):
    work_dir = write_work_dir(task, tmp_path / "work")
    command = [tools.test, work_dir, "--data-root", shapes, "--work-dir", tmp_path / "test", "--device", "cpu"]
    python(*command, "--window", 128, "--overlap", 32, "--scale", 0.5, "--out", tmp_path / "metrics.json")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert any("mIoU" in name or "mAP" in name for name in metrics)


@pytest.mark.slow
def test_processes_share_each_streamed_image(python, town, tmp_path):
    work_dir = write_work_dir("segmentation", tmp_path / "work")
    damaged = tmp_path / "damaged.tif"
    pixels = np.random.default_rng(0).integers(0, 256, (3, 400, 100), np.uint8)
    options = {"height": 400, "width": 100, "count": 3, "dtype": "uint8", "compress": "deflate", "tiled": True}
    with rasterio.open(damaged, "w", blockxsize=64, blockysize=64, **options) as file:
        file.write(pixels)
    content = bytearray(damaged.read_bytes())
    content[-2000:] = bytes(2000)
    damaged.write_bytes(content)

    images = [damaged, shutil.copy(town, tmp_path)]
    predict = ["-m", "xcit_dense", "predict", work_dir, *images, "--stream", "--no-draw", "--device", "cpu", "--out"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    done = python(*torchrun, *predict, tmp_path / "out", "--shard", status=1)
    assert "damaged.tif is not readable" in done.stderr
    assert [path.name for path in (tmp_path / "out/labels").glob("*.tif")] == ["town.tif"]
    assert not (tmp_path / "out/parts").exists()
    with rasterio.open(tmp_path / "out/labels/town.tif") as file:
        labels = file.read(1)
    with rasterio.open(town) as file:
        pixels = file.read().transpose(1, 2, 0).copy()
    pixels[:, 130:] = 124, 116, 104  # pixels without data get the mean
    engine = load_window_engine(work_dir / "sem_fpn.py", str(work_dir / "iter_4.pth"), device="cpu")
    expected = complete_logits(engine, pixels).argmax(dim=0).numpy()
    assert (labels[:, :100] == expected[:, :100]).mean() > 0.99
    assert (labels[:, 130:] == 255).all()
