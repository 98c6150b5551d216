"""A config is changed to read bands: the loader, the backbone, the normalisation and the augmentations."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmengine.config import Config

import xcit_dense.mm  # noqa: F401
from tests.helpers.models import raises_user_error
from tests.helpers.rasters import copy_as_tiffs, noise, write_tiff
from xcit_dense.media.bands import read_bands
from xcit_dense.mm.config.checks import check_config
from xcit_dense.mm.config.data_checks import check_data
from xcit_dense.mm.config.load import load_config
from xcit_dense.mm.config.walk import dicts_in

CONFIGS = Path(__file__).parents[3] / "configs"
DETECTION = CONFIGS / "detection/mask_rcnn_xcit_n12_p8_shapes.py"
SEGMENTATION = CONFIGS / "segmentation/sem_fpn_xcit_n12_p8_shapes.py"
ADE20K = CONFIGS / "segmentation/upernet_xcit_s12.py"
TRAINING = {DETECTION: "train2017", SEGMENTATION: "images/training"}

each_task = pytest.mark.parametrize("path", [DETECTION, SEGMENTATION], ids=["detection", "segmentation"])


@pytest.fixture(scope="module")
def tiffs(shapes, tmp_path_factory):
    """The shapes data set as TIFFs of four bands with 16 bits."""
    return copy_as_tiffs(shapes, tmp_path_factory.mktemp("tiffs"))


def steps(config, *names):
    """The steps with these types, anywhere in a config."""
    return [node for node in dicts_in(config._cfg_dict) if str(node.get("type")).rpartition(".")[2] in names]


def load(path, root, **options):
    return load_config(path, data_root=str(root), classes="auto", **options)


@each_task
def test_each_pipeline_reads_the_bands_and_the_backbone_gets_as_many_channels(tiffs, path):
    config = load(path, tiffs, bands="4,3,2,1", normalize="auto")
    assert not steps(config, "LoadImageFromFile")
    for part in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        assert [node["bands"] for node in dicts_in(part) if node.get("type") == "LoadBands"] == [[4, 3, 2, 1]]
    assert len(steps(config, "LoadBands")) >= len(steps(Config.fromfile(path), "LoadImageFromFile"))
    assert config.model.backbone.in_channels == 4
    check_config(config)


@each_task
def test_the_mean_and_the_deviation_are_those_of_the_training_images(tiffs, path, capsys):
    config = load(path, tiffs, bands="4,2", normalize="auto")
    images = [read_bands(file, [4, 2]) for file in (tiffs / TRAINING[path]).iterdir()]
    pixels = np.concatenate([image.reshape(-1, 2) for image in images]).astype(float)
    settings = config.model.data_preprocessor
    np.testing.assert_allclose(settings.mean, pixels.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(settings.std, pixels.std(axis=0), rtol=1e-5)
    assert (settings.type, settings.bgr_to_rgb) == ("BandsPreprocessor", False)
    assert f"Bands 4,2 of 8 training images: mean ({settings.mean[0]:.4g}, " in capsys.readouterr().out


@each_task
def test_the_config_of_a_run_keeps_its_bands_and_values(tiffs, path, tmp_path, capsys):
    config = load(path, tiffs, bands="4,3,2,1", draw_bands="3,2,1", normalize="auto")
    config.dump(tmp_path / "dumped.py")
    capsys.readouterr()
    for options in ({}, {"bands": "4,3,2,1"}, {"bands": "4,3,2,1", "normalize": "auto"}):
        again = load_config(tmp_path / "dumped.py", **options)
        assert again.model.data_preprocessor == config.model.data_preprocessor
        assert again.test_dataloader.dataset.pipeline[0] == {
            "type": "LoadBands",
            "bands": [4, 3, 2, 1],
            "drawn": [3, 2, 1],
        }
    assert not capsys.readouterr().out
    redrawn = load_config(tmp_path / "dumped.py", draw_bands="1")
    assert redrawn.test_dataloader.dataset.pipeline[0]["drawn"] == [1]
    with raises_user_error("--bands 1,2", "--normalize data"):
        load_config(tmp_path / "dumped.py", bands="1,2")


def test_augmentations_of_colours_are_left_out_with_a_line(capsys):
    pipeline = [
        {"type": "mmseg.PhotoMetricDistortion"},
        {"type": "RandomChoice", "transforms": [[{"type": "RandomFlip"}, {"type": "CLAHE"}], [{"type": "Resize"}]]},
    ]
    options = {"train_dataloader.dataset.pipeline": [{"type": "LoadImageFromFile"}, *pipeline]}
    config = load_config(ADE20K, options, bands="3,2,1", normalize="config")
    assert not steps(config, "PhotoMetricDistortion", "CLAHE")
    assert config.train_dataloader.dataset.pipeline[1:] == [
        {"type": "RandomChoice", "transforms": [[{"type": "RandomFlip"}], [{"type": "Resize"}]]}
    ]
    assert (
        "Left out, because they need three channels of 8 bits: CLAHE, PhotoMetricDistortion." in capsys.readouterr().out
    )


def test_the_augmentations_of_ordinary_images_stay():
    assert steps(load_config(ADE20K), "PhotoMetricDistortion")


def test_the_values_of_the_config_are_kept_on_request():
    config = load_config(ADE20K, bands="3,2,1", normalize="config")
    assert config.model.data_preprocessor.mean == load_config(ADE20K).model.data_preprocessor.mean
    with raises_user_error("reads 4 bands, but has 3 means", "--normalize data"):
        load_config(ADE20K, bands="4,3,2,1", normalize="config")


@each_task
def test_ordinary_images_are_measured_in_the_order_of_the_config(shapes, path):
    config = load(path, shapes, normalize="data")
    files = (shapes / TRAINING[path]).iterdir()
    pixels = np.concatenate([np.asarray(Image.open(file)).reshape(-1, 3) for file in files]).astype(float)
    np.testing.assert_allclose(config.model.data_preprocessor.mean, pixels.mean(axis=0), rtol=1e-5)
    blue_first = load(path, shapes, options={"model.data_preprocessor.bgr_to_rgb": False}, normalize="data")
    assert blue_first.model.data_preprocessor.mean == config.model.data_preprocessor.mean[::-1]


@pytest.mark.parametrize("text", ["4,x", "0,1", "", "1,,2", "-1", "1.5"])
def test_other_texts_than_numbers_are_refused(text):
    with raises_user_error("--bands", "counted from 1"):
        load_config(ADE20K, bands=text, normalize="config")


def test_bands_of_drawings_need_bands():
    with raises_user_error("--draw-bands", "write --bands too"):
        load_config(ADE20K, draw_bands="3,2,1")
    with raises_user_error("must be three bands, or one, of [4, 3, 2]"):
        load_config(ADE20K, bands="4,3,2", draw_bands="1,2,3", normalize="config")


def test_a_model_without_the_values_of_its_training_is_refused():
    with raises_user_error("--bands 4,3,2", "work directory of the training"):
        load_config(ADE20K, bands="4,3,2")


def test_a_backbone_without_a_number_of_channels_is_refused():
    options = {"model.backbone": {"type": "ResNeXt", "depth": 50}}
    load_config(ADE20K, options, bands="3,2,1", normalize="config")
    options = {"model.backbone": {"type": "DarknetCSP"}}
    with raises_user_error("DarknetCSP has no argument in_channels"):
        load_config(ADE20K, options, bands="3,2,1", normalize="config")


def test_an_image_with_fewer_bands_ends_the_measurement_by_its_name(tiffs, tmp_path):
    root = copy_as_tiffs(tiffs, tmp_path / "copy")
    write_tiff(root / "train2017/000000000003.tif", noise(96, 96, 3))
    with raises_user_error(root / "train2017/000000000003.tif", "3 bands", "band 4"):
        load(DETECTION, root, bands="4,3,2", normalize="auto")


@each_task
def test_the_check_reads_the_named_bands_and_refuses_a_config_that_would_lose_them(tiffs, path):
    def faults(**options):
        config = load(path, tiffs, **options)
        return {what for report in check_data(config, ("train_dataloader",)) for what in report.faults}

    loss = "images of other bands than red, green and blue (--bands reads them)"
    without = faults()
    assert loss in without
    assert faults(bands="4,3", normalize="auto") == without - {loss}
