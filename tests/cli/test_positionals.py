"""The rule for positional arguments: config or weights first, then weights, then inputs."""

from pathlib import Path

import pytest

from tests.helpers.models import raises_user_error
from xcit_dense.cli.positionals import read_config_argument, read_model_arguments
from xcit_dense.cli.shipped_configs import find_config

S12 = find_config("mask_rcnn_xcit_s12")


@pytest.fixture
def work_dir(tmp_path):
    """A work directory with a config and a file in the place of a checkpoint."""
    directory = tmp_path / "work"
    directory.mkdir()
    (directory / "mine.py").touch()
    (directory / "iter_4.pth").touch()
    return directory


@pytest.mark.parametrize("config", ["mask_rcnn_xcit_s12", str(S12)])
def test_a_config_comes_before_weights_and_inputs(config):
    found = read_model_arguments([config, "a.pth", "photos", "more.jpg"], takes_inputs=True)
    assert (found.config, found.weights, found.inputs) == (S12, "a.pth", ("photos", "more.jpg"))
    assert found.work_dir is None


@pytest.mark.parametrize("name", ["coco/small_12_p16", "xcit://coco/small_12_p16"])
def test_published_weights_of_a_model_name_its_config(name):
    found = read_model_arguments([name, "photos"], takes_inputs=True)
    assert (found.config, found.weights, found.inputs) == (S12, name, ("photos",))


def test_a_work_directory_brings_its_config(work_dir):
    found = read_model_arguments([str(work_dir)], takes_inputs=False)
    assert (found.config, found.weights, found.work_dir) == (work_dir / "mine.py", str(work_dir), work_dir)


def test_a_checkpoint_in_a_work_directory_brings_its_config(work_dir):
    found = read_model_arguments([str(work_dir / "iter_4.pth"), "a.jpg"], takes_inputs=True)
    assert (found.config, found.inputs) == (work_dir / "mine.py", ("a.jpg",))


def test_a_work_directory_with_several_configs_or_without_a_config_is_refused(work_dir):
    (work_dir / "other.py").touch()
    with raises_user_error("2 configs", "mine.py", "other.py", f"{work_dir}/mine.py {work_dir}"):
        read_model_arguments([str(work_dir)], takes_inputs=False)
    for path in work_dir.glob("*.py"):
        path.unlink()
    with raises_user_error("No config in", work_dir):
        read_model_arguments([str(work_dir)], takes_inputs=False)


def test_an_exported_model_is_tested_with_the_config_of_a_work_directory(work_dir):
    found = read_model_arguments([str(work_dir), "model.onnx"], takes_inputs=False)
    assert (found.config, found.weights) == (work_dir / "mine.py", "model.onnx")


@pytest.mark.parametrize(
    ("words", "takes_inputs", "expected"),
    [
        (["model.onnx"], False, "write the config or the work directory"),
        (["mask_rcnn_xcit_s12", "model.onnx", "a.jpg"], True, "leave mask_rcnn_xcit_s12 out"),
        (["mask_rcnn_xcit_s12"], False, "weights after it are missing"),
        (["mask_rcnn_xcit_s12"], True, "weights after it are missing"),
        (["mask_rcnn_xcit_s12", "a.pth"], True, "No input after a.pth"),
        (["coco/small_12_p16"], True, "No input after coco/small_12_p16"),
        (["mask_rcnn_xcit_s12", "a.pth", "b.pth"], False, "b.pth is more than this command takes"),
        (["small_12_p16_384_dist"], False, "weights of a backbone"),
        (["https://host/a.pth"], False, "does not name its config"),
        (["mask_rcn_xcit_s12", "a.pth"], False, "mask_rcnn_xcit_s12"),
        (["coco/smal_12_p16"], False, "coco/small_12_p16"),
        (["mask_rcn_xcit_s12.py", "a.pth"], False, "mask_rcnn_xcit_s12"),
        (["nothing-like-it"], False, "no shipped config of this name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_arguments_without_a_model_are_refused(words, takes_inputs, expected):
    with raises_user_error(expected):
        read_model_arguments(words, takes_inputs)


def test_a_command_of_a_config_takes_a_name_a_path_or_a_work_directory(work_dir):
    assert read_config_argument(["mask_rcnn_xcit_s12"]).config == S12
    assert read_config_argument([str(S12)]).config == S12
    found = read_config_argument([str(work_dir)])
    assert (found.config, found.work_dir) == (work_dir / "mine.py", work_dir)


def test_a_command_of_a_config_refuses_a_saved_model(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with raises_user_error(tmp_path, "is a saved model", "write a config", f"load_from={tmp_path}"):
        read_config_argument([str(tmp_path)])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["coco/small_12_p16"], "write its config 'mask_rcnn_xcit_s12'"),
        (["small_12_p16_224"], "names weights"),
        (["mask_rcnn_xcit_s12", "a.pth"], "a.pth is more"),
        (["mask_rcnn_xcit_s21"], "mask_rcnn_xcit_s12"),
        (["gone.py"], "No config at gone.py"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_of_a_config_refuses_other_arguments(words, expected):
    with raises_user_error(expected):
        read_config_argument(words)


def test_the_example_of_the_refusal_works(work_dir):
    """The error for two configs shows a command; its arguments must be accepted."""
    (work_dir / "other.py").touch()
    found = read_model_arguments([str(work_dir / "mine.py"), str(work_dir)], takes_inputs=False)
    assert found.config == Path(work_dir / "mine.py")
