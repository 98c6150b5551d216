"""`config --backbone` writes a config of MMDetection or MMSegmentation with an XCiT in it."""

import pytest

pytest.importorskip("mmdet", reason="MMDetection is not installed")

from mmengine.config import Config

from tests.helpers.models import raises_user_error
from xcit_dense.cli.installed_configs import find_any_config, library_configs
from xcit_dense.cli.main import main

MASK2FORMER = "mask2former_r50_8xb2-lsj-50e_coco"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("text", [MASK2FORMER, f"{MASK2FORMER}.py", f"mask2former/{MASK2FORMER}"])
def test_a_config_of_theirs_is_found_by_name(text):
    assert find_any_config(text) == library_configs("mmdet")[f"mask2former/{MASK2FORMER}.py"]


def test_a_shipped_config_is_found_by_name_and_a_file_by_path(tmp_path):
    assert find_any_config("sem_fpn_xcit_t12").name == "sem_fpn_xcit_t12.py"
    (tmp_path / "mine.py").touch()
    assert find_any_config("mine.py").name == "mine.py"


def test_a_wrong_name_is_refused_with_near_names():
    with raises_user_error(f"No config at {MASK2FORMER}x", f"Did you mean '{MASK2FORMER}'?"):
        find_any_config(f"{MASK2FORMER}x")


def test_copy_writes_one_file_that_is_read_without_xcit_dense_being_imported_before(tmp_path, capsys, python):
    main(["config", "--backbone", "nano_12_p16", MASK2FORMER, "--copy", "new"])
    leaf = tmp_path / "new" / f"{MASK2FORMER}_xcit_n12.py"
    assert list((tmp_path / "new").iterdir()) == [leaf]
    assert str(leaf.relative_to(tmp_path)) in capsys.readouterr().out
    assert leaf.read_text().startswith(f'_base_ = "mmdet::mask2former/{MASK2FORMER}.py"\n')
    process = python(
        "-c",
        "import sys\n"
        "from mmengine.config import Config\n"
        "from mmdet.registry import MODELS\n"
        "config = Config.fromfile(sys.argv[1])\n"
        "print(MODELS.get(config.model.backbone.type).__module__, config.model.panoptic_head.in_channels)",
        leaf,
    )
    assert process.stdout.splitlines()[-1] == "xcit_dense.mm.backbone [128, 128, 128, 128]"


def test_copying_again_keeps_the_file_and_an_edited_file_is_not_overwritten(tmp_path):
    command = ["config", "--backbone", "nano_12_p16", "retinanet_r50_fpn_1x_coco", "--copy", "."]
    main(command)
    main(command)
    leaf = tmp_path / "retinanet_r50_fpn_1x_coco_xcit_n12.py"
    leaf.write_text("# mine\n")
    with pytest.raises(SystemExit, match="exists and has other content"):
        main(command)
    assert leaf.read_text() == "# mine\n"


def test_a_file_and_a_shipped_config_are_bases_by_relative_paths(tmp_path):
    (tmp_path / "mine.py").write_text("_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\n")
    main(["config", "--backbone", "nano_12_p16", "mine.py", "--copy", "new"])
    leaf = tmp_path / "new" / "mine_xcit_n12.py"
    assert leaf.read_text().startswith('_base_ = "../mine.py"\n')
    assert Config.fromfile(leaf).model.neck.in_channels == [128] * 4
    main(["config", "--backbone", "nano_12_p16", "mask_rcnn_xcit_s12", "--copy", "ours"])
    leaf = tmp_path / "ours" / "configs" / "detection" / "mask_rcnn_xcit_s12_xcit_n12.py"
    assert Config.fromfile(leaf).model.backbone.variant == "nano_12_p16"


def test_without_copy_the_complete_config_is_printed(capsys):
    main(
        ["config", "--backbone", "nano_12_p16", "retinanet_r50_fpn_1x_coco", "--cfg-options", "train_cfg.max_epochs=3"]
    )
    printed = capsys.readouterr().out
    assert "variant='nano_12_p16'" in printed
    assert "train_dataloader" in printed
    assert "max_epochs=3" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backbone", "nano_12_p61", MASK2FORMER], "Did you mean 'nano_12_p16'?"),
        (["--backbone", "nano_12_p16", MASK2FORMER, "more"], "more is more than this command takes"),
        ([MASK2FORMER], "No config at"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(SystemExit, match=message.replace("?", r"\?")):
        main(["config", *arguments])
