"""Shipped configs are found by name from any directory, and copied ready to use."""

from pathlib import Path

import pytest

from tests.helpers.models import raises_user_error
from xcit_dense.cli.shipped_configs import copy_config, find_config, is_config
from xcit_dense.utils.configs import shipped_configs
from xcit_dense.weights.zoo import ZOO

ROOT = Path(__file__).parents[2]
S12 = ROOT / "configs/detection/mask_rcnn_xcit_s12.py"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_config_of_the_clone_has_a_name_of_its_own():
    files = {path for path in (ROOT / "configs").rglob("*.py") if "_base_" not in path.parts}
    assert set(shipped_configs().values()) == files
    assert {Path(one.config).stem for one in ZOO.values() if one.config} < set(shipped_configs())


@pytest.mark.parametrize(
    "text", ["mask_rcnn_xcit_s12", "mask_rcnn_xcit_s12.py", "detection/mask_rcnn_xcit_s12", str(S12)]
)
def test_a_config_is_found_by_name_and_by_path(text):
    assert is_config(text)
    assert find_config(text) == S12


def test_an_existing_file_wins_over_the_name_of_a_shipped_config(tmp_path):
    (tmp_path / "mask_rcnn_xcit_s12.py").touch()
    assert find_config("mask_rcnn_xcit_s12.py") == Path("mask_rcnn_xcit_s12.py")


@pytest.mark.parametrize("text", ["mask_rcn_xcit_s12", "mask_rcn_xcit_s12.py", "configs/mask_rcnn_xcit_s21.py"])
def test_a_name_with_a_typo_is_refused_with_near_names(text):
    with raises_user_error(f"No config at {text}", "Did you mean", "mask_rcnn_xcit_s12"):
        find_config(text)


def test_a_path_in_another_directory_does_not_mean_a_shipped_config():
    with raises_user_error("No config at segmentation/mask_rcnn_xcit_s12.py"):
        find_config("segmentation/mask_rcnn_xcit_s12.py")


@pytest.mark.parametrize("text", ["small_12_p16", "coco/small_12_p16", "work_dirs/mine", "image.jpg", "."])
def test_weights_and_images_are_not_configs(text):
    assert not is_config(text)


def test_a_copy_has_exactly_the_files_that_the_config_inherits_from(tmp_path):
    copies = copy_config(S12, tmp_path / "new")
    assert copies[0] == tmp_path / "new/configs/detection/mask_rcnn_xcit_s12.py"
    assert {path for path in (tmp_path / "new").rglob("*") if path.is_file()} == set(copies)
    for copy in copies:
        assert copy.read_bytes() == (ROOT / copy.relative_to(tmp_path / "new")).read_bytes()
    assert (tmp_path / "new/configs/_base_/models/mask_rcnn.py") in copies
    assert not (tmp_path / "new/configs/_base_/models/upernet.py").exists()


@pytest.mark.parametrize("name", ["mask_rcnn_xcit_s12_1x", "sem_fpn_xcit_n12_p8_shapes", "upernet_xcit_t24"])
def test_a_copy_is_read_like_the_original(tmp_path, name):
    config = pytest.importorskip("mmengine.config", reason="MMEngine is not installed")
    copy, *_ = copy_config(find_config(name), tmp_path)
    assert config.Config.fromfile(copy).to_dict() == config.Config.fromfile(find_config(name)).to_dict()


def test_a_copied_user_config_keeps_its_layout(tmp_path):
    (tmp_path / "mine/base").mkdir(parents=True)
    (tmp_path / "mine/base/a.py").write_text("x = 1\n")
    (tmp_path / "mine/b.py").write_text("_base_ = ['base/a.py', 'mmdet::_base_/default_runtime.py']\n")
    copies = copy_config(tmp_path / "mine/b.py", tmp_path / "copy")
    assert copies == [tmp_path / "copy/b.py", tmp_path / "copy/base/a.py"]


def test_copying_again_keeps_the_files_and_an_edited_copy_is_not_overwritten(tmp_path):
    first = copy_config(S12, tmp_path)
    assert copy_config(S12, tmp_path) == first
    first[0].write_text("mine = True\n")
    with raises_user_error(first[0], "other content", "another directory"):
        copy_config(S12, tmp_path)
    assert first[0].read_text() == "mine = True\n"


def test_a_missing_base_is_named(tmp_path):
    (tmp_path / "b.py").write_text("_base_ = 'gone.py'\n")
    with raises_user_error(tmp_path / "gone.py", "inherits"):
        copy_config(tmp_path / "b.py", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
