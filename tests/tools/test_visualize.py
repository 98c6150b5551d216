"""tools/visualize.py draws images for weights of any origin, without an MM library."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.models import randomise, tiny_xcit
from xcit_dense import XCiT

pytest.importorskip("matplotlib", reason="the images are drawn with matplotlib")

TOOL = Path(__file__).parents[2] / "tools/visualize.py"


@pytest.fixture
def draw(monkeypatch, tmp_path):
    """Runs the tool on the CPU and returns the names of the drawn files. A refusal is a SystemExit."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def run(*arguments):
        out = tmp_path / "out"
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments), "--out", str(out), "--device", "cpu"])
        runpy.run_path(str(TOOL), run_name="__main__")
        return sorted(path.name for path in out.iterdir())

    return run


@pytest.fixture
def refused(draw, tmp_path):
    """Expects a refusal with these words. Returns the names of the files that were drawn before it."""

    def check(words, *arguments):
        with pytest.raises(SystemExit) as exit_:
            draw(*arguments)
        assert str(exit_.value).startswith("error: ")
        for word in words:
            assert word in str(exit_.value)
        return sorted(path.name for path in tmp_path.glob("out/*"))

    return check


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 67, 3), np.uint8)).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


@pytest.fixture(scope="module")
def weights():
    return {f"backbone.{name}": value for name, value in tiny_xcit().state_dict().items()}


@pytest.fixture
def detector(weights, tmp_path):
    """The checkpoint of a training, in its work directory."""
    directory = tmp_path / "work"
    directory.mkdir()
    state = {**weights, "neck.weight": torch.ones(3)}
    torch.save({"state_dict": state, "meta": {"iter": 4}, "message_hub": {}}, directory / "iter_4.pth")
    return directory / "iter_4.pth"


@pytest.mark.slow
def test_a_user_without_mm_libraries_sees_a_classifier_of_the_zoo(python, without, photo, tmp_path):
    """The name refers to a downloaded file in the published layout. The tool runs in another directory."""
    model = randomise(XCiT("nano_12_p16")).state_dict()
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    state = {name: value for name, value in model.items() if not name.startswith("fpn")}
    torch.save({"model": {**state, "head.bias": torch.ones(1000)}}, cache / "xcit_nano_12_p16_224.pth")
    process = python(
        *(TOOL, "nano_12_p16_224", photo, "--out", "drawn", "--block", 0, 11),
        cwd=tmp_path,
        TORCH_HOME=str(tmp_path),
        **without("mmengine", "mmcv", "mmdet", "mmseg", "cv2", "rich"),
    )
    names = ["photo_levels.png", "photo_block0.png", "photo_block11.png"]
    assert "of the pyramid not in the file" in process.stderr
    assert process.stdout.splitlines() == [f"drawn/{name}" for name in names]
    assert sorted(path.name for path in tmp_path.glob("drawn/*")) == sorted(names)


def test_the_checkpoint_of_a_detector_and_its_work_directory_are_understood(draw, detector, photo, tmp_path):
    names = draw(detector, photo)
    assert names == ["photo_block3.png", "photo_levels.png"]
    first = {name: (tmp_path / "out" / name).read_bytes() for name in names}
    draw(detector.parent, photo)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in names} == first


def test_a_size_changes_the_drawing(draw, detector, photo, tmp_path):
    draw(detector, photo)
    before = (tmp_path / "out" / "photo_levels.png").read_bytes()
    draw(detector, photo, "--size", 160)
    assert (tmp_path / "out" / "photo_levels.png").read_bytes() != before


def test_unreadable_files_are_named_at_the_end_and_the_others_are_drawn(refused, detector, photo, tmp_path):
    (tmp_path / "bad.png").write_text("no picture")
    drawn = refused(["bad.png is not a readable image"], detector, tmp_path / "bad.png", photo)
    assert drawn == ["photo_block3.png", "photo_levels.png"]


def test_a_missing_image_or_a_duplicate_name_is_refused_before_drawing(refused, detector, photo, tmp_path):
    assert refused(["No image at", "gone.png"], detector, photo, tmp_path / "gone.png") == []
    (tmp_path / "more").mkdir()
    Image.open(photo).save(tmp_path / "more" / "photo.png")
    assert refused(["Several images are called photo"], detector, photo, tmp_path / "more" / "photo.png") == []


def test_weights_that_are_not_there_are_refused(refused, detector, photo, tmp_path):
    assert refused(["No checkpoint at", "nano_12"], "nano_12", photo) == []
    detector.unlink()
    assert refused(["does not contain an intact checkpoint", "work"], detector.parent, photo) == []


def test_another_variant_or_an_absent_block_is_refused(refused, detector, photo):
    assert refused(["iter_4.pth", "small_12_p16"], detector, photo, "--variant", "small_12_p16") == []
    assert refused(["no block 12", "0 to 3"], detector, photo, "--block", 12) == []
