"""Label maps on the disk that windows are written into."""

import errno
import os

import numpy as np
import pytest

from xcit_dense.errors import UserError
from xcit_dense.rasters.canvas import Canvas
from xcit_dense.rasters.window import Window


def test_windows_are_written_and_the_rest_has_the_fill(tmp_path):
    with Canvas.create(tmp_path / "new/a.npy", 10, 12, np.uint8, fill=255) as canvas:
        canvas.write(Window(2, 3, 4, 5), np.full((4, 5), 7))
    found = np.load(tmp_path / "new/a.npy")
    assert (found[2:6, 3:8] == 7).all()
    assert (found == 255).sum() == 120 - 20


def test_a_canvas_of_scores_has_values_for_each_pixel(tmp_path):
    scores = np.random.default_rng(0).random((3, 4, 5)).astype(np.float16)
    with Canvas.create(tmp_path / "a.npy", 6, 7, np.float16, fill=0, bands=5) as canvas:
        canvas.write(Window(1, 2, 3, 4), scores)
        np.testing.assert_array_equal(canvas.array[1:4, 2:6], scores)


def test_two_openings_of_one_canvas_see_the_windows_of_each_other(tmp_path):
    one = Canvas.create(tmp_path / "a.npy", 8, 8, np.int32, fill=-1)
    other = Canvas.reopen(tmp_path / "a.npy", 8, 8, np.int32)
    one.write(Window(0, 0, 8, 4), np.zeros((8, 4)))
    other.write(Window(0, 4, 8, 4), np.ones((8, 4)))
    np.testing.assert_array_equal(one.array, other.array)
    assert one.array.sum() == 32


def test_a_canvas_of_another_shape_or_type_is_an_error(tmp_path):
    Canvas.create(tmp_path / "a.npy", 8, 8, np.uint8, fill=0).close()
    with pytest.raises(UserError, match=r"has the shape \(8, 8\) of uint8, but the shape \(8, 9\) of uint8 is needed"):
        Canvas.reopen(tmp_path / "a.npy", 8, 9, np.uint8)
    with pytest.raises(UserError, match="is needed"):
        Canvas.reopen(tmp_path / "a.npy", 8, 8, np.int16)
    with pytest.raises(UserError, match="is not a readable"):
        Canvas.reopen(tmp_path / "b.npy", 8, 8, np.uint8)


def test_values_that_do_not_fit_the_window_are_an_error(tmp_path):
    canvas = Canvas.create(tmp_path / "a.npy", 8, 8, np.uint8, fill=0)
    with pytest.raises(UserError, match=r"Values of the shape \(2, 2\) do not fit"):
        canvas.write(Window(0, 0, 2, 3), np.zeros((2, 2)))
    with pytest.raises(UserError, match="do not fit"):
        canvas.write(Window(7, 7, 2, 2), np.zeros((2, 2)))


def test_the_needed_and_the_free_space_are_stated_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match=r"needs 1,000,000,000,000,000,000 bytes on the disk, but [\d,]+ bytes"):
        Canvas.create(tmp_path / "a.npy", 10**9, 10**9, np.uint8, fill=0)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_later_is_an_error_with_a_sentence(tmp_path, monkeypatch):
    canvas = Canvas.create(tmp_path / "a.npy", 8, 8, np.uint8, fill=0)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match="No space left on device; free some space"):
        canvas.write(Window(0, 0, 8, 8), np.zeros((8, 8)))
