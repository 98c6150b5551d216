"""The subcommand convert-data: what it prints and writes, and how it ends."""

import numpy as np
import pytest
from PIL import Image

from xcit_dense.cli.main import main


@pytest.fixture
def masks(tmp_path):
    """Four images with label images of three colours."""
    for directory in ("images", "masks"):
        (tmp_path / "data" / directory).mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (3, 2)).save(tmp_path / f"data/images/{number}.jpg")
        pixels = np.array([[[1, 1, 1], [200, 0, 0], [0, 0, 7]]] * 2, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"data/masks/{number}.png")
    (tmp_path / "colours.txt").write_text("sky: 1,1,1\nroad: 200,0,0\ncar: 0,0,7\n")
    return tmp_path


def test_data_is_converted_and_described(masks, capsys):
    arguments = [
        masks / "data",
        masks / "clean",
        "--colours",
        masks / "colours.txt",
        "--val-fraction",
        0.25,
        "--seed",
        1,
    ]
    main(["convert-data", *map(str, arguments)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Images in images and label maps in masks, in {masks / 'data'}:"
    assert lines[1] == "  train: 3 images, 3 classes (sky 33.3%, road 33.3%, car 33.3%)"
    assert lines[2].startswith("  val: 1 images")
    assert f"--data-root {masks / 'clean'} --classes auto" in lines[-1]
    assert len(list((masks / "clean/labels/val").iterdir())) == 1
    assert not (masks / "clean/images/train/1.jpg").is_symlink()


def test_unknown_colours_are_refused_with_a_sentence(masks):
    with pytest.raises(SystemExit) as end:
        main(["convert-data", str(masks / "data"), str(masks / "clean")])
    assert str(end.value).startswith("error: ")
    assert "200,0,0" in str(end.value)
    assert "--colours FILE" in str(end.value)
    assert not (masks / "clean").exists()


def test_a_missing_source_is_refused(tmp_path):
    with pytest.raises(SystemExit) as end:
        main(["convert-data", str(tmp_path / "gone"), str(tmp_path / "clean")])
    assert str(tmp_path / "gone") in str(end.value)
