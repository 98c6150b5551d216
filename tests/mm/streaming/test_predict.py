"""The command predict with --stream, and what it refuses before it reads an image."""

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
pytest.importorskip("rasterio", reason="rasterio is not installed")
import xcit_dense.mm  # noqa: F401  isort: skip
import rasterio

from tests.helpers.models import raises_user_error
from tests.helpers.tiny import save_tiny, tiny_config, write_work_dir
from xcit_dense.cli.main import main
from xcit_dense.mm.inference.load import load_window_engine
from xcit_dense.mm.streaming.predict import check_engine

TRANSFORM = rasterio.transform.from_origin(1000, 2000, 0.5, 0.5)


def write_geotiff(path, pixels, **options):
    """Writes an image (H, W, N) as a GeoTIFF."""
    height, width, count = pixels.shape
    options = {"crs": "EPSG:32632", "transform": TRANSFORM, **options}
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=count, dtype=pixels.dtype, **options
    ) as file:
        file.write(pixels.transpose(2, 0, 1))
    return path


def noise(height, width, bands=3, dtype=np.uint8):
    return np.random.default_rng(height).integers(0, 255, (height, width, bands)).astype(dtype)


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory):
    return write_work_dir("segmentation", tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def engine(work_dir):
    return load_window_engine(work_dir / "sem_fpn.py", str(work_dir / "iter_4.pth"), device="cpu")


def complete_logits(engine, pixels):
    """The logits of the model for the complete image at its own size."""
    bgr = torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1)
    with torch.no_grad():
        prepared = engine.predictor.model.data_preprocessor({"inputs": [bgr]})["inputs"]
        return engine.predictor.model.predict(prepared)[0].seg_logits.data


def run(*words):
    with pytest.raises(SystemExit) as ended:
        main(["predict", *map(str, words)])
    return ended.value.code


def test_a_geotiff_becomes_a_geotiff_with_the_labels_of_the_complete_image(work_dir, engine, tmp_path, capsys):
    pixels = noise(230, 170)
    write_geotiff(tmp_path / "town.tif", pixels)
    assert run(work_dir, tmp_path / "town.tif", "--stream", "--out", tmp_path / "out", "--device", "cpu") == 0
    with rasterio.open(tmp_path / "out" / "labels" / "town.tif") as file:
        labels = file.read(1)
        assert file.crs.to_epsg() == 32632
        assert file.transform == TRANSFORM
    logits = complete_logits(engine, pixels)
    best = logits.topk(2, dim=0).values
    clear = (best[0] - best[1] > 1e-4).numpy()
    assert clear.mean() > 0.99
    assert np.array_equal(labels[clear], logits.argmax(dim=0).numpy()[clear])
    assert "170 x 230 pixels" in capsys.readouterr().out
    assert not (tmp_path / "out" / "parts").exists()


def test_pixels_without_data_get_no_class_and_failures_do_not_end_the_run(work_dir, tmp_path, capsys):
    pixels = noise(90, 70)
    pixels[:40] = 0
    (tmp_path / "in").mkdir()
    write_geotiff(tmp_path / "in" / "a.tif", noise(60, 60, 2))
    write_geotiff(tmp_path / "in" / "b.tif", pixels, nodata=0)
    assert run(work_dir, tmp_path / "in", "--stream", "--out", tmp_path / "out", "--device", "cpu") == 1
    assert "a.tif" in capsys.readouterr().err
    with rasterio.open(tmp_path / "out" / "labels" / "b.tif") as file:
        labels = file.read(1)
    assert (labels[:40] == 255).all()
    assert (labels[41:] != 255).any()


def test_other_bands_are_normalised_as_the_model_normalises_them(tmp_path):
    config = tiny_config("segmentation")
    config.model.backbone.in_channels = 2
    statistics = {"mean": [500.0, 700.0], "std": [100.0, 200.0], "bgr_to_rgb": False}
    config.model.data_preprocessor = {"type": "BandsPreprocessor", "base": "SegDataPreProcessor", **statistics}
    config.test_dataloader.dataset.pipeline[0] = {"type": "LoadBands", "bands": [4, 1]}
    config.dump(tmp_path / "bands.py")
    save_tiny(config, tmp_path / "iter_4.pth")
    pixels = noise(75, 64, 4, np.uint16) * 10
    write_geotiff(tmp_path / "field.tif", pixels)
    words = [tmp_path / "bands.py", tmp_path / "iter_4.pth", tmp_path / "field.tif"]
    assert run(*words, "--stream", "--out", tmp_path / "out", "--device", "cpu") == 0
    engine = load_window_engine(tmp_path / "bands.py", str(tmp_path / "iter_4.pth"), device="cpu")
    image = torch.from_numpy(pixels[..., [3, 0]].astype(np.float32)).permute(2, 0, 1)
    prepared = engine.predictor.model.data_preprocessor({"inputs": [image]})["inputs"]
    with torch.no_grad():
        expected = engine.predictor.model.predict(prepared)[0].pred_sem_seg.data[0].numpy()
    with rasterio.open(tmp_path / "out" / "labels" / "field.tif") as file:
        assert (file.read(1) == expected).mean() > 0.999


def test_values_that_are_not_finite_are_named(tmp_path, capsys):
    config = tiny_config("segmentation")
    config.model.backbone.in_channels = 1
    statistics = {"mean": [0.0], "std": [1.0], "bgr_to_rgb": False}
    config.model.data_preprocessor = {"type": "BandsPreprocessor", "base": "SegDataPreProcessor", **statistics}
    config.test_dataloader.dataset.pipeline[0] = {"type": "LoadBands", "bands": [1]}
    config.dump(tmp_path / "bands.py")
    save_tiny(config, tmp_path / "iter_4.pth")
    pixels = noise(64, 64, 1, np.float32)
    pixels[30, 30] = np.inf
    write_geotiff(tmp_path / "field.tif", pixels)
    words = [tmp_path / "bands.py", tmp_path / "iter_4.pth", tmp_path / "field.tif"]
    assert run(*words, "--stream", "--out", tmp_path / "out", "--device", "cpu") == 1
    assert "1 pixels with values that are not finite" in capsys.readouterr().err
    assert not (tmp_path / "out" / "labels").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--batch", "2"], ["--batch"]),
        (["--launcher", "pytorch"], ["--launcher", "--shard"]),
        (["--shard"], ["--shard", "torchrun"]),
        (["--window", "64"], ["--window", "one of them"]),
        (["--overlap", "8"], ["--overlap"]),
        (["--scores"], ["--scores"]),
        (["--resume"], ["--resume", "again"]),
    ],
)
def test_options_without_a_meaning_are_refused(work_dir, tmp_path, options, words):
    (tmp_path / "town.tif").touch()
    code = run(work_dir, tmp_path / "town.tif", "--stream", *options, "--out", tmp_path / "out")
    for word in words:
        assert word in code
    assert not (tmp_path / "out").exists()


def test_a_video_is_refused(work_dir, tmp_path):
    (tmp_path / "clip.mp4").touch()
    code = run(work_dir, tmp_path / "clip.mp4", "--stream", "--out", tmp_path / "out", "--device", "cpu")
    assert "clip.mp4 is a video" in code
    assert not (tmp_path / "out").exists()


def test_detectors_are_refused(tmp_path):
    directory = write_work_dir("detection", tmp_path)
    engine = load_window_engine(directory / "mask_rcnn.py", str(directory / "iter_4.pth"), device="cpu")
    with raises_user_error("detector", "--window"):
        check_engine(engine)


def test_steps_that_change_pixels_are_refused(work_dir):
    options = {
        "test_dataloader.dataset.pipeline": [
            {"type": "LoadImageFromFile"},
            {"type": "CLAHE"},
            {"type": "PackSegInputs"},
        ]
    }
    engine = load_window_engine(work_dir / "sem_fpn.py", str(work_dir / "iter_4.pth"), options, device="cpu")
    with raises_user_error("CLAHE", "--window"):
        check_engine(engine)
