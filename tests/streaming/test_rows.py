"""Images that are read by rows."""

import numpy as np
import pytest
import torch

from tests.helpers.models import raises_user_error, tiny_xcit
from xcit_dense import stream
from xcit_dense.rasters.array import ArraySource
from xcit_dense.rasters.window import Window
from xcit_dense.streaming.rows import SourceRows

MEAN, STD = (100.0, 50.0), (20.0, 5.0)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 60_000, (50, 70, 3), dtype=np.uint16)


def test_bands_are_chosen_ordered_and_normalised(pixels):
    rows = SourceRows(ArraySource(pixels), MEAN, STD, bands=(3, 1))
    expected = (pixels[8:16][..., [2, 0]].astype(np.float32) - MEAN) / STD
    assert (rows.height, rows.width) == (50, 70)
    torch.testing.assert_close(rows.read(8, 16)[0].permute(1, 2, 0).double(), torch.from_numpy(expected))


def test_pixels_without_data_become_the_mean(pixels):
    pixels[10, 20] = 7
    rows = SourceRows(ArraySource(pixels, nodata=7), MEAN, STD, bands=(1, 2))
    assert (rows.read(10, 11)[0, :, 0, 20] == 0).all()
    assert (rows.read(10, 11)[0, :, 0, 21] != 0).all()


def test_a_raster_is_streamed(pixels):
    backbone = tiny_xcit(in_channels=2).eval()
    rows = SourceRows(ArraySource(pixels), (30_000, 30_000), (17_000, 17_000), bands=(2, 3))
    with torch.no_grad():
        level = backbone(rows.read(0, 50))[2]
    with stream(backbone, rows, strip=2) as streamed:
        found = streamed.read(2, Window(0, 0, *level.shape[2:]))
    assert (found - level).abs().max() <= 1e-4 * level.std()


@pytest.mark.parametrize(("mean", "std"), [((1, 2), (1, 2)), ((1, 2, 3), (1, 2)), ((1, 2, 3), (1, 0, 3))])
def test_statistics_that_do_not_fit_are_refused(pixels, mean, std):
    with raises_user_error("3 bands", mean, std):
        SourceRows(ArraySource(pixels), mean, std)
