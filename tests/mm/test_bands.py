"""Bands are loaded, normalised and shown in both libraries, whatever their number."""

import importlib

import numpy as np
import pytest
import torch

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmengine.registry import DefaultScope

import xcit_dense.mm  # noqa: F401
from tests.helpers.models import raises_user_error
from tests.helpers.rasters import noise, write_tiff
from xcit_dense.mm.bands import LoadBands

PREPROCESSORS = {"mmdet": "DetDataPreprocessor", "mmseg": "SegDataPreProcessor"}
each_library = pytest.mark.parametrize("library", PREPROCESSORS)


def build(library, registry, **settings):
    """Builds a part with the registry of a library, as its configs do."""
    pytest.importorskip(f"{library}.models", reason=f"{library} is not installed")
    with DefaultScope.overwrite_default_scope(library):
        return getattr(importlib.import_module(f"{library}.registry"), registry).build(settings)


@each_library
def test_the_bands_of_a_tiff_are_loaded_in_their_order(tmp_path, library):
    pixels = noise(20, 30, 5)
    write_tiff(tmp_path / "a.tif", pixels)
    sample = build(library, "TRANSFORMS", type="LoadBands", bands=[4, 3, 2])({"img_path": str(tmp_path / "a.tif")})
    assert sample["img"].dtype == np.float32
    assert np.array_equal(sample["img"], pixels[..., [3, 2, 1]])
    assert sample["img_shape"] == sample["ori_shape"] == (20, 30)


def test_values_that_are_not_finite_are_refused_by_name_and_number(tmp_path):
    pixels = noise(20, 30, 4, "float32")
    pixels[0, :3, 1] = np.nan
    pixels[0, 1, 0] = np.inf
    write_tiff(tmp_path / "a.tif", pixels)
    with raises_user_error(tmp_path / "a.tif", "3 pixels", "not finite"):
        LoadBands([1, 2])({"img_path": str(tmp_path / "a.tif")})
    assert LoadBands([3, 4])({"img_path": str(tmp_path / "a.tif")})["img"].shape == (20, 30, 2)


def test_an_image_with_fewer_bands_is_refused_by_name_and_number(tmp_path):
    write_tiff(tmp_path / "a.tif", noise(20, 30, 3))
    with raises_user_error(tmp_path / "a.tif", "3 bands", "band 4"):
        LoadBands([4, 3, 2])({"img_path": str(tmp_path / "a.tif")})


@pytest.mark.parametrize(
    ("bands", "drawn", "expected"),
    [([4, 3, 2, 1], None, [4, 3, 2]), ([4, 2], None, [4]), ([1, 2, 3, 8], [3, 2, 1], [3, 2, 1]), ([7, 5], [5], [5])],
)
def test_drawings_show_the_named_bands_or_the_first_three(bands, drawn, expected):
    image = noise(20, 30, len(bands), "float32")
    load = LoadBands(bands, drawn)
    assert load.drawn == expected
    shown = load.show(image)
    assert (shown.shape, shown.dtype) == ((20, 30, 3), np.uint8)
    for channel, band in enumerate(expected):
        values = image[..., bands.index(band)]
        assert np.corrcoef(values.ravel(), shown[..., channel].ravel())[0, 1] > 0.99


@pytest.mark.parametrize(("bands", "drawn"), [([], None), ([0, 1], None), ([1, 2, 3], [4, 2, 1]), ([1, 2, 3], [1, 2])])
def test_bands_that_do_not_exist_are_refused(bands, drawn):
    with raises_user_error("write"):
        LoadBands(bands, drawn)


@each_library
@pytest.mark.parametrize("factor", [0.5, 0.7, 2])
def test_many_bands_are_resized_and_mirrored_as_each_band_by_itself(tmp_path, library, factor):
    write_tiff(tmp_path / "a.tif", noise(40, 60, 13))
    scale = {"type": "Resize", "scale": (round(60 * factor), round(40 * factor)), "keep_ratio": False}
    steps = [scale, {"type": "RandomFlip", "prob": 1.0, "direction": "horizontal"}]

    def run(bands):
        sample = LoadBands(bands)({"img_path": str(tmp_path / "a.tif")})
        for step in steps:
            sample = build(library, "TRANSFORMS", **step)(sample)
        return sample["img"].reshape(*sample["img"].shape[:2], len(bands))

    got = run(range(1, 14))
    assert got.shape == (round(40 * factor), round(60 * factor), 13)
    np.testing.assert_allclose(got[..., [12]], run([13]), rtol=1e-4)


@each_library
@pytest.mark.parametrize("count", [1, 2, 3, 4, 13])
@pytest.mark.parametrize("training", [False, True])
def test_any_number_of_channels_is_normalised(library, count, training):
    mean, std = [100.0 * (1 + band) for band in range(count)], [1.0 + band for band in range(count)]
    options = {"size": (32, 32)} if library == "mmseg" else {"pad_size_divisor": 32}
    settings = {"base": PREPROCESSORS[library], "mean": mean, "std": std, "bgr_to_rgb": False, **options}
    prepare = build(library, "MODELS", type="BandsPreprocessor", **settings)
    assert type(prepare).__name__ == PREPROCESSORS[library]
    images = [torch.from_numpy(noise(24, 32, count, "float32", seed=seed)).permute(2, 0, 1) for seed in range(2)]
    structures = importlib.import_module(f"{library}.structures")
    pixels = importlib.import_module("mmengine.structures").PixelData
    samples = []
    for image in images:
        sample = structures.SegDataSample() if library == "mmseg" else structures.DetDataSample()
        sample.set_metainfo({"img_shape": image.shape[1:]})
        sample.gt_sem_seg = pixels(data=torch.zeros(1, 24, 32, dtype=torch.long))
        samples.append(sample)
    got = prepare({"inputs": [image.clone() for image in images], "data_samples": samples}, training)["inputs"]
    expected = (images[1] - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(got[1, :, :24], expected)
    assert not got[:, :, 24:].any()


def test_means_and_deviations_of_different_numbers_are_refused():
    with raises_user_error("4 means and 3 standard deviations"):
        build("mmdet", "MODELS", type="BandsPreprocessor", base="DetDataPreprocessor", mean=[0] * 4, std=[1] * 3)
