"""xcit_dense.predict_large gives what the command gives, for paths and for loaded models."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("rasterio", reason="the extra [large] is not installed")

import xcit_dense
from tests.helpers.models import raises_user_error
from tests.helpers.tiny import TASKS, write_work_dir
from xcit_dense.cli.main import main
from xcit_dense.inference.model import Model
from xcit_dense.rasters.open import open_source
from xcit_dense.rasters.window import Window


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "big.png"
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8))
    small.resize((130, 100), Image.Resampling.BICUBIC).save(path)
    return path


def read_labels(out):
    with open_source(out / "labels/big.tif") as source:
        return source.read(Window(0, 0, source.height, source.width))[..., 0]


@pytest.mark.parametrize("task", TASKS)
def test_a_loaded_model_predicts_windows_as_the_command_does_and_still_predicts_images(task, image, tmp_path):
    work_dir = write_work_dir(task, tmp_path / "run")
    with pytest.raises(SystemExit, match="0"):
        main(
            ["predict", str(work_dir), str(image), "--window", "64", "--score-thr", "0", "--out", f"{tmp_path}/command"]
        )
    model = xcit_dense.load(work_dir)
    before = model.predict(image, score_thr=0)
    summary = xcit_dense.predict_large(model, image, tmp_path / "out", window=64, score_thr=0)
    assert (summary.images, summary.windows, list(summary.failures)) == (1, 6, [])
    if task == "segmentation":
        assert summary.objects is None
        assert (read_labels(tmp_path / "out") == read_labels(tmp_path / "command")).all()
        assert (model.predict(image).labels == before.labels).all()
    else:
        files = [tmp_path / name / "results.json" for name in ("out", "command")]
        assert summary.objects > 0
        assert files[0].read_bytes() == files[1].read_bytes()
        assert (model.predict(image, score_thr=0).xyxy == before.xyxy).all()


def test_a_segmentor_that_slides_over_images_sees_a_window_at_once(image, tmp_path):
    work_dir = write_work_dir("segmentation", tmp_path / "run")
    options = {"model.test_cfg": {"mode": "slide", "crop_size": (32, 32), "stride": (16, 16)}}
    sliding = xcit_dense.load(work_dir, options=options)
    for name, model in (("sliding", sliding), ("whole", work_dir)):
        xcit_dense.predict_large(model, [image], tmp_path / name, window=64, overlap=0, preview=False)
    assert (read_labels(tmp_path / "sliding") == read_labels(tmp_path / "whole")).all()
    assert sliding.engine.model.test_cfg.mode == "slide"


class Other:
    """An engine that knows no windows."""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 16}, ["16 pixels is too small"]),
        ({"overlap": 600}, ["overlap of 600", "512"]),
        ({"scale": 0}, ["scale 0"]),
        ({"batch": 0}, ["batch=0", "1 or more"]),
        ({"score_thr": 2}, ["score_thr=2", "from 0 to 1"]),
        ({}, ["Other does not predict windows", "WindowEngine"]),
    ],
)
def test_what_does_not_fit_is_refused(image, tmp_path, options, words):
    with raises_user_error(*words):
        xcit_dense.predict_large(Model(Other()), image, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
