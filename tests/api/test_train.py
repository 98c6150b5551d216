"""xcit_dense.train: the command's code with keyword arguments."""

import os
import warnings

import pytest

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")

import xcit_dense
from tests.helpers.models import raises_user_error
from tests.helpers.runs import read_training_log
from tests.helpers.tiny import tiny_config
from xcit_dense.api import training


@pytest.fixture
def parsed(monkeypatch):
    """Returns the arguments that the command would get for keyword arguments."""
    taken = []
    monkeypatch.setattr(training.command, "train", taken.append)

    def call(*args, **options):
        xcit_dense.train(*args, **options)
        return taken[-1]

    return call


def test_keywords_become_the_options_of_the_command(parsed, tmp_path):
    args = parsed(
        "mask_rcnn_xcit_s12",
        data=tmp_path,
        batch=4,
        epochs=24,
        work_dir=tmp_path / "mine",
        classes=["cat", "dog"],
        val_fraction=0.1,
        resume=True,
        amp=True,
        verbose=False,
        seed=None,
        bands=(4, 3, 2),
        device="cpu",
        options={"randomness.seed": 0},
    )
    assert args.words == ["mask_rcnn_xcit_s12"]
    assert (args.data_root, args.work_dir) == (str(tmp_path), str(tmp_path / "mine"))
    assert (args.batch, args.epochs, args.iterations, args.val_fraction, args.seed) == (4, 24, None, 0.1, None)
    assert (args.classes, args.bands, args.device, args.resume) == ("cat,dog", "4,3,2", "cpu", "auto")
    assert (args.amp, args.verbose, args.check_data) == (True, False, False)
    assert args.cfg_options == {"randomness.seed": 0}


def test_without_options_the_command_has_its_defaults(parsed):
    import argparse

    parser = argparse.ArgumentParser()
    training.command.add_arguments(parser)
    expected = {**vars(parser.parse_args(["sem_fpn_xcit_t12"])), "cfg_options": {}}
    assert vars(parsed("sem_fpn_xcit_t12")) == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epoch": 24}, ["'epoch'", "Did you mean 'epochs'?"]),
        ({"data_root": "data"}, ["'data_root'", "data"]),
        ({"local_rank": 1}, ["'local_rank'"]),
        ({"words": "x"}, ["'words'"]),
        ({"batch": "many"}, ["--batch", "'many'"]),
        ({"device": "gpu"}, ["--device", "'gpu'", "cpu"]),
        ({"amp": "yes"}, ["amp='yes'", "True or False"]),
        ({"options": ["a=1"]}, ["not a dictionary"]),
    ],
)
def test_an_unknown_option_or_value_is_refused_with_advice(parsed, options, words):
    with raises_user_error(*words):
        parsed("mask_rcnn_xcit_s12", **options)


@pytest.mark.slow
def test_two_trainings_in_one_process_and_their_models(shapes, tmp_path, capfd):
    """The second training resumes the first. The process keeps its environment and its warnings."""
    config = tiny_config("segmentation")
    config.dump(tmp_path / "own.py")
    show, rank = warnings.showwarning, os.environ.get("LOCAL_RANK")
    common = {"data": shapes, "work_dir": tmp_path / "run", "batch": 2, "device": "cpu"}
    options = {"default_hooks.logger.interval": 1, "randomness.seed": 0, "train_dataloader.num_workers": 0}
    work_dir = xcit_dense.train(tmp_path / "own.py", iterations=2, options=options, **common)
    assert work_dir == tmp_path / "run"
    assert (work_dir / "iter_2.pth").is_file()
    again = xcit_dense.train(work_dir, iterations=4, resume=True, options=options, **common)
    assert len(read_training_log(again)) == 4
    assert (warnings.showwarning, os.environ.get("LOCAL_RANK")) == (show, rank)
    assert "Traceback" not in capfd.readouterr().err
    model = xcit_dense.load(again, device="cpu")
    found = list(model.predict(shapes / "val2017"))
    assert len(found) == 4
    assert capfd.readouterr().out == ""
