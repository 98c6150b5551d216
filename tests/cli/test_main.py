"""The subcommands zoo, doctor and config: what they print, and how they end."""

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from xcit_dense import VARIANTS
from xcit_dense.cli import environment
from xcit_dense.cli.main import main
from xcit_dense.weights.zoo import ZOO

ROOT = Path(__file__).parents[2]
S12 = ROOT / "configs/detection/mask_rcnn_xcit_s12.py"
SEGMENTATION = ROOT / "configs/segmentation/upernet_xcit_s12.py"


@pytest.fixture
def printed(capsys, monkeypatch):
    """Runs a command line and returns its output. With `terminal`, stdout appears to be a terminal."""

    def run(*arguments, terminal=False):
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
        main(list(map(str, arguments)))
        return capsys.readouterr().out

    return run


def refused(*arguments):
    """Runs a command line that must fail with one sentence. Returns the sentence."""
    with pytest.raises(SystemExit) as exit_:
        main(list(map(str, arguments)))
    assert str(exit_.value).startswith("error: ")
    return str(exit_.value)


def first_words(text, heading):
    """The first column of a plain table."""
    table = text[text.index(heading) :].partition("\n\n")[0]
    return [line.split()[0] for line in table.splitlines()[3:]]


def test_the_zoo_has_every_variant_and_all_weights(printed):
    text = printed("zoo")
    assert first_words(text, "Variants") == list(VARIANTS)
    headings = {"XCiT": "Weights,", "BEiT": "Weights of BEiT,", "BEiTv2": "Weights of BEiTv2,"}
    headings |= {"CaiT": "Weights of CaiT,", "CoaT": "Weights of CoaT,"}
    for architecture, heading in headings.items():
        of = [name for name, weights in ZOO.items() if weights.architecture == architecture]
        assert first_words(text, heading) == of
    assert re.search(
        r"coco/small_12_p16 +detection +box AP 45.3, mask AP 40.8 +44.4 +296.9 +mask_rcnn_xcit_s12\n", text
    )


def test_the_zoo_has_the_class_and_the_variant_of_other_backbones(printed):
    text = printed("zoo", "beit_base", "ade20k")
    assert "Variants: XCiT" not in text
    assert "TokenPyramid.from_pretrained(NAME)" in text
    assert re.search(
        r"ade20k/upernet/beit_base +segmentation +mIoU 53.6, .* beit_base_patch16_224 +upernet_beit_b\n", text
    )


def test_the_zoo_is_filtered_by_words(printed):
    text = printed("zoo", "UperNet", "p8", "medium_24")
    assert first_words(text, "Weights") == ["ade20k/upernet/medium_24_p8"]
    assert first_words(text, "Variants") == ["medium_24_p8"]


def test_the_zoo_is_a_table_in_a_terminal_with_rich(printed):
    pytest.importorskip("rich", reason="rich is not installed")
    text = printed("zoo", "coco", "tiny", terminal=True)
    assert "─" in text
    assert "coco/tiny_12_p16" in text


def test_the_zoo_is_in_plain_columns_in_a_terminal_without_rich(printed, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    text = printed("zoo", "coco", "tiny", terminal=True)
    assert "─" not in text
    assert first_words(text, "Weights") == ["coco/tiny_12_p16", "coco/tiny_12_p8"]


def test_an_unknown_word_is_refused_with_the_nearest():
    sentence = refused("zoo", "p8", "upperent")
    assert "'upperent'" in sentence
    assert "'upernet'" in sentence
    assert "(p8)" in sentence


def test_words_that_do_not_match_any_weights_are_refused():
    assert "dino, nano" in refused("zoo", "dino", "nano")


@pytest.fixture
def ill(monkeypatch):
    """Makes the doctor find one thing wrong, in an environment without MM libraries."""

    def make(**versions):
        here = environment.Environment.here()
        mm = {name for names in environment.MODULES.values() for name in names}
        there = {name: version for name, version in here.versions.items() if name not in mm} | versions
        monkeypatch.setattr(environment.Environment, "here", classmethod(lambda _: replace(here, versions=there)))

    return make


def test_the_doctor_ends_well_without_mm_libraries(printed, ill):
    ill()
    text = printed("doctor")
    assert re.search(r"absent +MM set", text)
    assert re.search(r"yes +the backbone", text)
    assert re.search(r"no +detection", text)
    assert "pip install 'xcit-dense[mm]'" in text


def test_the_doctor_ends_with_status_1_if_something_is_broken(ill, capsys):
    ill(torch="2.0.1")
    with pytest.raises(SystemExit) as exit_:
        main(["doctor"])
    assert exit_.value.code == 1
    text = capsys.readouterr().out
    assert re.search(r"broken +torch +2\.0\.1, but xcit_dense needs >=", text)
    assert re.search(r"  torch:\n    pip install 'torch>=\S+' 'torchvision>=", text)
    assert not re.search(r"^  yes ", text, re.MULTILINE)


@pytest.mark.slow
def test_the_doctor_does_not_find_errors_here(python):
    text = python("-m", "xcit_dense", "doctor").stdout
    libraries = all(importlib.util.find_spec(name) for name in ("mmengine", "mmcv", "mmdet", "mmseg"))
    assert len(re.findall(r"^  yes ", text, re.MULTILINE)) == (5 if libraries else 1)
    assert "broken  " not in text


def test_a_config_without_mmengine_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "mmengine.config", None)
    assert "pip install" in refused("config", S12)


def test_a_command_must_be_named(capsys):
    with pytest.raises(SystemExit) as exit_:
        main([])
    assert exit_.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_a_mistyped_command_is_refused_with_the_nearest():
    sentence = refused("trian", "config.py")
    assert "'trian'" in sentence
    assert "Did you mean 'train'?" in sentence
    assert "convert-data" in sentence


class TestConfig:
    """With MMEngine."""

    @pytest.fixture(autouse=True)
    def _libraries(self):
        for name in ("mmengine", "mmdet", "mmseg"):
            pytest.importorskip(name, reason=f"{name} is not installed")

    @pytest.mark.slow
    def test_the_complete_config_is_printed_and_can_be_loaded(self, printed, tmp_path):
        from mmengine.config import Config

        text = printed(
            "config",
            S12,
            "--data-root",
            "/d",
            "--cfg-options",
            "train_dataloader.batch_size=7",
            "optim_wrapper.optimizer.betas=[0.9,0.95]",
        )
        (tmp_path / "again.py").write_text(text)
        again = Config.fromfile(tmp_path / "again.py")
        original = Config.fromfile(S12)
        assert again.model == original.model
        assert again.train_dataloader.batch_size == 7
        assert again.train_dataloader.dataset.data_root == "/d"
        assert again.optim_wrapper.optimizer.betas == [0.9, 0.95]

    def test_a_backbone_that_does_not_fit_is_refused_after_it_was_printed(self, capsys):
        sentence = refused("config", SEGMENTATION, "--cfg-options", "model.backbone.variant=tiny_12_p16")
        assert "model.decode_head.in_channels" in sentence
        assert "variant='tiny_12_p16'" in capsys.readouterr().out

    def test_an_absent_config_is_refused(self):
        assert "No config at gone.py" in refused("config", "gone.py")

    def test_an_option_without_a_value_is_refused(self):
        assert "'lr'" in refused("config", S12, "--cfg-options", "lr")
