"""The text of a config is read without executing it."""

from pathlib import Path

import pytest

from tests.helpers.models import raises_user_error
from xcit_dense.weights.config_text import read_config_text


def test_values_are_read():
    text = """
a = 1
b = [1.5, -2, 'x' 'y', None, True]
c = dict(d=(1, ), e=dict({'f-g': {}}, h=()), **{'i j': inf})
k = -inf
"""
    assert read_config_text(text) == {
        "a": 1,
        "b": [1.5, -2, "xy", None, True],
        "c": {"d": (1,), "e": {"f-g": {}, "h": ()}, "i j": float("inf")},
        "k": -float("inf"),
    }


@pytest.mark.parametrize(
    "text",
    [
        "import os",
        "a = __import__('os').system('touch executed')",
        "a = dict(b=open('executed', 'w'))",
        "a = [b for b in (1, 2)]",
        "a = 1 + 1",
        "a = b",
        "a.b = 1",
        "a, b = 1, 2",
        "a = b = 1",
        "a = dict(**print('x'))",
        "a = dict([('b', 1)])",
        "a = {**{}}",
        "a = {print(): 1}",
        "a = f'{print()}'",
        "a = -'b'",
        "a: print() = 1",
        "del a",
        "print('executed')",
        "def dict(**b): pass",
    ],
)
def test_code_is_refused_and_shown(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with raises_user_error("contains code", "was not executed", "write the config's file before it"):
        read_config_text(text)
    assert not Path("executed").exists()


@pytest.mark.parametrize("text", ["a = (", "\0", "a = " + "(" * 500, "\x80é=" + "1\n=" * 3])
def test_a_text_that_is_not_python_is_refused(text):
    with raises_user_error("config"):
        read_config_text(text)


def test_the_text_of_a_training_equals_its_config_file():
    mmengine = pytest.importorskip("mmengine", reason="MMEngine is not installed")
    from xcit_dense.utils.configs import shipped_configs

    for name in ("mask_rcnn_xcit_n12_p8_shapes", "sem_fpn_xcit_s12", "detection/mask2former_xcit_s12"):
        config = mmengine.Config.fromfile(shipped_configs()[name], import_custom_modules=False)
        assert read_config_text(config.pretty_text) == config.to_dict()
