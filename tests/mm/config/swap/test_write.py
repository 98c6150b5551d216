"""A written config has only the difference, and gives the config that it was written from."""

import pytest

pytest.importorskip("mmdet", reason="MMDetection is not installed")

from mmengine.config import Config

from tests.helpers.models import raises_user_error
from xcit_dense.cli.installed_configs import library_configs
from xcit_dense.mm.config.swap import replace_backbone
from xcit_dense.mm.config.swap.write import add_import, write_difference


def without_scopes(part):
    """A part of a config without the marks that MMEngine leaves on parts from another package."""
    if isinstance(part, dict):
        return {key: without_scopes(value) for key, value in part.items() if key != "_scope_"}
    if isinstance(part, list | tuple):
        return type(part)(map(without_scopes, part))
    return part


@pytest.mark.parametrize(
    "name",
    [
        "detr/detr_r50_8xb2-150e_coco.py",
        "mask2former/mask2former_r50_8xb2-lsj-50e_coco.py",
        "retinanet/retinanet_r50_fpn_1x_coco.py",
        "soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py",
        "ssd/ssd300_coco.py",
        "swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py",
        "yolox/yolox_s_8xb8-300e_coco.py",
    ],
)
def test_a_written_config_equals_the_replaced_config(name, tmp_path):
    before = Config.fromfile(library_configs("mmdet")[name])
    after = replace_backbone(before, "small_12_p16")
    add_import(after)
    text = write_difference(f"mmdet::{name}", before, after)
    assert "train_dataloader" not in text
    (tmp_path / "leaf.py").write_text(text)
    read = Config.fromfile(tmp_path / "leaf.py")
    assert without_scopes(read.to_dict()) == without_scopes(after.to_dict())


def test_values_of_all_kinds_survive(tmp_path):
    before = Config({"model": {"a": 1, "b": {"c": 2, "d": 3}, "same": [1, 2]}})
    after = Config(
        {
            "model": {"a": [1, (2,)], "b": {"c": 2}, "same": [1, 2]},
            "new": {"x-y": None, "text": 'it\'s "quoted"\n', "yes": True, "small": 1e-8, "all": float("inf")},
            "long": [{"type": "AVeryLongNameOfAClass", "number": number} for number in range(5)],
        }
    )
    (tmp_path / "base.py").write_text("model = dict(a=1, b=dict(c=2, d=3), same=[1, 2])\n")
    text = write_difference("./base.py", before, after)
    (tmp_path / "leaf.py").write_text(text)
    assert Config.fromfile(tmp_path / "leaf.py").to_dict() == after.to_dict()
    assert "same" not in text
    assert "b=dict(_delete_=True, c=2)" in text
    assert max(map(len, text.splitlines())) <= 120


def test_what_a_text_cannot_express_is_refused():
    with raises_user_error("load_from of the config cannot be removed", "None"):
        write_difference("./base.py", Config({"load_from": "x"}), Config({}))
    with raises_user_error("neither a text nor a number"):
        write_difference("./base.py", Config({}), Config({"model": {"type": dict}}))


def test_an_import_is_added_once_to_the_imports_of_the_config():
    config = Config({"custom_imports": {"imports": ["mine"], "allow_failed_imports": True}})
    add_import(config)
    add_import(config)
    assert config.custom_imports == {"imports": ["mine", "xcit_dense.mm"], "allow_failed_imports": False}
