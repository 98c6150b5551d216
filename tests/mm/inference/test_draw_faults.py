"""What a check found is drawn on the images where it is."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")

from xcit_dense.cli.data_check import check_data
from xcit_dense.datasets.checks.report import Mark, Report
from xcit_dense.errors import UserError
from xcit_dense.media.images import write_image
from xcit_dense.mm.config.load import load_config
from xcit_dense.mm.inference.draw_faults import draw_faults

BLUE = (0, 0, 160)


@pytest.fixture
def image(tmp_path):
    write_image(tmp_path / "a.png", np.full((100, 200, 3), BLUE, np.uint8))
    return tmp_path / "a.png"


def test_each_kind_of_fault_has_a_sheet_and_errors_are_first(image, tmp_path):
    report = Report(tmp_path / "train.json")
    report.warning("boxes that reach beyond their image", "annotation 1", Mark(image, (150, 0, 250, 50)))
    report.error("classes without a name", "entry 3")
    report.error("missing images", "gone.jpg", Mark(tmp_path / "gone.jpg"))
    sheets = draw_faults([report], tmp_path / "check")
    names = ["01_error_missing_images.jpg", "02_warning_boxes_that_reach_beyond_their_image.jpg"]
    assert [path.name for path in sheets] == sorted(path.name for path in (tmp_path / "check").iterdir()) == names
    pixels = np.asarray(Image.open(sheets[1])).astype(int)
    yellow = (abs(pixels - (255, 255, 0)) < 60).all(axis=-1)
    blue = (abs(pixels - BLUE) < 60).all(axis=-1)
    assert yellow.any()
    assert np.flatnonzero(yellow.any(axis=0)).max() > np.flatnonzero(blue.any(axis=0)).max(), "beyond the image"


def test_a_large_number_of_faults_gives_a_sheet_of_limited_size(image, tmp_path):
    report = Report(tmp_path / "train.json")
    for number in range(500):
        report.error("boxes outside their image", f"annotation {number}", Mark(image, (300, 0, 310, 10)))
    (sheet,) = draw_faults([report], tmp_path / "check")
    with Image.open(sheet) as drawing:
        assert max(drawing.size) < 3000


def test_sheets_of_an_earlier_check_are_removed_and_other_files_stay(image, tmp_path):
    report = Report(tmp_path / "train.json")
    report.error("boxes outside their image", "annotation 1", Mark(image, (300, 0, 310, 10)))
    draw_faults([report], tmp_path / "check")
    (tmp_path / "check/notes.txt").touch()
    assert draw_faults([Report(tmp_path / "train.json")], tmp_path / "check") == []
    assert [path.name for path in (tmp_path / "check").iterdir()] == ["notes.txt"]


def test_nothing_is_written_without_faults(tmp_path):
    assert draw_faults([Report(Path("train.json"))], tmp_path / "check") == []
    assert not (tmp_path / "check").exists()


def test_an_unreadable_image_does_not_end_the_check(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    report = Report(tmp_path / "train.json")
    report.error("unreadable images", "broken.jpg", Mark(tmp_path / "broken.jpg"))
    assert len(draw_faults([report], tmp_path / "check")) == 1


def test_a_command_draws_the_faults_before_it_refuses_the_data(shapes, tmp_path, capsys):
    shutil.copytree(shapes, tmp_path / "data")
    (tmp_path / "data/train2017/000000000002.jpg").unlink()
    config = Path(__file__).parents[3] / "configs/detection/mask_rcnn_xcit_n12_p8_shapes.py"
    config = load_config(config, data_root=str(tmp_path / "data"))
    with pytest.raises(UserError, match="1 kind of error"):
        check_data(config, ("train_dataloader",), None, draw_to=tmp_path / "check")
    assert f"drawn in {tmp_path / 'check'}: " in capsys.readouterr().out
    assert (tmp_path / "check/01_error_missing_images.jpg").is_file()
