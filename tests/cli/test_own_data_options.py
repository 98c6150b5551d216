"""The options for data with classes of its own."""

import argparse
from types import SimpleNamespace

import pytest

pytest.importorskip("mmengine", reason="MMEngine is not installed")

from tests.helpers.models import raises_user_error
from xcit_dense.cli.options import add_own_data, add_run_options, make_config, read_own_data
from xcit_dense.datasets.formats.validation import Validation


def parse(*arguments, has_seed=False):
    parser = argparse.ArgumentParser()
    add_run_options(parser)
    if has_seed:
        parser.add_argument("--seed", type=int, default=0)
    add_own_data(parser, has_seed)
    return parser.parse_args(arguments)


@pytest.mark.parametrize("has_seed", [False, True], ids=["own --seed", "--seed of the command"])
def test_fraction_and_seed_become_a_split(has_seed):
    assert read_own_data(parse("--val-fraction", "0.1", has_seed=has_seed))["validation"] == Validation(0.1, 0)
    args = parse("--val-fraction", "0.1", "--seed", "7", has_seed=has_seed)
    assert read_own_data(args)["validation"] == Validation(0.1, 7)
    assert "validation" not in read_own_data(parse(has_seed=has_seed))


def test_a_command_without_the_options_passes_none():
    assert read_own_data(argparse.Namespace(data_root=None)) == {}


def test_a_seed_without_a_fraction_is_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    with raises_user_error("--seed", "--val-fraction", "randomness.seed=3"):
        make_config(parse("--seed", "3"), SimpleNamespace(config="a.py", work_dir=None), ("train_dataloader",))
