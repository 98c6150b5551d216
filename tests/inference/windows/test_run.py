"""A run by windows gives what the model gives for each pixel, goes on after an end, and names what fails."""

import dataclasses
import json
import multiprocessing

import numpy as np
import pytest

pytest.importorskip("tifffile", reason="tifffile is not installed")
pytest.importorskip("rasterio", reason="rasterio is not installed")
pytest.importorskip("shapely", reason="shapely is not installed")
pytest.importorskip("pycocotools", reason="pycocotools is not installed")

import tifffile
from pycocotools import mask as coding

from tests.helpers.windows import PixelEngine as Engine
from xcit_dense.errors import UserError
from xcit_dense.inference.windows.run import Options, run
from xcit_dense.media.images import write_image
from xcit_dense.media.inputs import find_media
from xcit_dense.rasters.canvas import Canvas
from xcit_dense.rasters.open import open_source
from xcit_dense.rasters.window import Window

OPTIONS = Options(side=64, overlap=16, batch=3)


@pytest.fixture
def image(tmp_path):
    """An image with bright rectangles, some of them across windows."""
    pixels = np.full((150, 200, 3), 20, np.uint8)
    for y, x, height, width in [(5, 5, 20, 20), (40, 30, 30, 120), (100, 90, 45, 60), (60, 170, 80, 20)]:
        pixels[y : y + height, x : x + width] = 220
    write_image(tmp_path / "in/big.png", pixels)
    return pixels


def start(tmp_path, engine, *inputs, out="out", **options):
    resume = options.pop("resume", False)
    media = find_media([str(tmp_path / "in" / name) for name in inputs or ("big.png",)])
    return run(engine, media, tmp_path / out, dataclasses.replace(OPTIONS, **options), resume=resume)


def labels(out, name="big"):
    with open_source(out / f"labels/{name}.tif") as source:
        return source.read(Window(0, 0, source.height, source.width))[..., 0]


def test_the_label_map_is_that_of_the_complete_image(tmp_path, image):
    summary = start(tmp_path, Engine())
    assert (labels(tmp_path / "out") == (image[..., 0] > 127)).all()
    assert (summary.images, summary.windows, summary.skipped, summary.objects) == (1, 12, 0, None)
    assert not summary.failures
    assert not (tmp_path / "out/parts").exists()


def test_objects_across_windows_are_in_the_json_files_once(tmp_path, image):
    summary = start(tmp_path, Engine(segments=False))
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert summary.objects == len(results) == 4
    total = sum(coding.decode(one["segmentation"]) for one in results)
    assert (total == (image[..., 0] > 127)).all()
    geo = json.loads((tmp_path / "out/objects/big.geojson").read_text())
    assert len(geo["features"]) == 4


@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize("stop_at", [0, 5, 9])
def test_a_run_that_ended_goes_on_and_gives_the_same(tmp_path, image, segments, stop_at):
    start(tmp_path, Engine(segments), out="reference")
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, Engine(segments, stop_at=stop_at))
    with pytest.raises(UserError, match="write --resume"):
        start(tmp_path, Engine(segments))
    with pytest.raises(UserError, match="another --overlap: 16, not 8"):
        start(tmp_path, Engine(segments), overlap=8, resume=True)
    engine = Engine(segments)
    start(tmp_path, engine, resume=True)
    assert engine.calls == 12 if stop_at < 4 else engine.calls < 13
    names = ["labels/big.tif"] if segments else ["results.json", "images.json", "objects/big.geojson"]
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "reference" / name).read_bytes()
    with pytest.raises(UserError, match="complete"):
        start(tmp_path, Engine(segments), resume=True)


def test_an_unfinished_line_of_the_journal_is_done_again(tmp_path, image):
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, Engine(stop_at=9))
    with (tmp_path / "out/parts/0/rows-0.jsonl").open("a") as file:
        file.write('{"row": 2, "ski')
    start(tmp_path, Engine(), resume=True)
    assert (labels(tmp_path / "out") == (image[..., 0] > 127)).all()


def test_windows_without_data_are_skipped_and_their_pixels_have_no_class(tmp_path, image):
    opacity = np.full((150, 200, 1), 255, np.uint8)
    opacity[:, :100] = 0
    write_image(tmp_path / "in/clear.png", np.concatenate([image, opacity], axis=2))
    summary = start(tmp_path, Engine(), "clear.png")
    assert summary.skipped == 3
    found = labels(tmp_path / "out", "clear")
    assert (found[:, :100] == 255).all()
    assert (found[:, 100:] == (image[:, 100:, 0] > 127)).all()


def test_a_window_that_fails_is_named_and_the_others_are_done(tmp_path, image):
    image[10, 10] = 77
    write_image(tmp_path / "in/big.png", image)
    summary = start(tmp_path, Engine(bad=77))
    assert summary.failures == [("big.png, rows 0 to 64, columns 0 to 64", "RuntimeError: bad window")]
    found = labels(tmp_path / "out")
    assert (found[:48, :48] == 255).all()
    assert (found[64:] == (image[64:, :, 0] > 127)).all()


def test_a_damaged_file_loses_only_the_windows_that_need_the_missing_tiles(tmp_path, image):
    path = tmp_path / "in/cut.tif"
    large = np.tile(image, (2, 2, 1))
    options = {"tile": (64, 64), "photometric": "rgb", "compression": None}
    tifffile.imwrite(path, large, **options)
    with tifffile.TiffFile(path) as file:
        offsets = file.pages[0].dataoffsets
    content = path.read_bytes()
    path.write_bytes(content[: offsets[-1]])  # without the last tile
    summary = start(tmp_path, Engine(), "cut.tif")
    assert summary.images == 1
    assert summary.failures
    for name, why in summary.failures:
        assert name.startswith("cut.tif, rows ")
        assert "not readable" in why
    found = labels(tmp_path / "out", "cut")
    assert (found[:240] == (large[:240, :, 0] > 127)).all()
    assert (found[-4:, -4:] == 255).all()
    assert any("has no preview" in note for note in summary.notes)


def test_a_full_disk_ends_the_run_and_the_run_goes_on_later(tmp_path, image, monkeypatch):
    write = Canvas.write

    def fail(canvas, window, values):
        if window.row > 0:
            raise UserError("labels.npy cannot be written: No space left on device; free some space")
        write(canvas, window, values)

    monkeypatch.setattr(Canvas, "write", fail)
    with pytest.raises(UserError, match="No space left"):
        start(tmp_path, Engine())
    monkeypatch.undo()
    engine = Engine()
    start(tmp_path, engine, resume=True)
    assert engine.calls == 12  # the first row is done, and is computed once more for the rows that follow
    assert (labels(tmp_path / "out") == (image[..., 0] > 127)).all()


def test_several_images_and_one_that_does_not_fit(tmp_path, image):
    write_image(tmp_path / "in/small.png", image[:30, :40])
    write_image(tmp_path / "in/deep.png", np.zeros((70, 70), np.uint16))
    summary = start(tmp_path, Engine(), "big.png", "small.png", "deep.png")
    assert summary.images == 2
    assert summary.failures == [("deep.png", "not 8 bits")]
    assert (labels(tmp_path / "out", "small") == (image[:30, :40, 0] > 127)).all()
    (note,) = summary.notes
    assert "small.png is smaller than a window" in note


def test_a_video_is_refused(tmp_path, image):
    (tmp_path / "in/clip.mp4").touch()
    with pytest.raises(UserError, match="leave --window out"):
        start(tmp_path, Engine(), "clip.mp4")


def work(rank, tmp_path):
    """One of two processes."""
    from torch import distributed

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=rank, world_size=2)
    engine = Engine()
    summary = start(tmp_path, engine, "big.png", "small.png")
    assert 0 < engine.calls < 12, "the windows are not shared"
    assert (summary is None) == (rank == 1)
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path, image):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    write_image(tmp_path / "in/small.png", image[:30, :40])
    start(tmp_path, Engine(), "big.png", "small.png", out="reference")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    for name in ("big", "small"):
        assert (labels(tmp_path / "out", name) == labels(tmp_path / "reference", name)).all()
