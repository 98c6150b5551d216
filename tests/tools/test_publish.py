"""The test of a saved model, and of a checkpoint without a config, equals the test of the work directory."""

import json
import shutil

import pytest

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")

from xcit_dense.cli.main import main


@pytest.mark.slow
@pytest.mark.both
def test_a_saved_model_and_a_checkpoint_alone_are_tested_without_a_config(trained, python, tools, shapes, tmp_path):
    main(["publish", str(trained.work_dir), "--out", str(tmp_path / "saved"), "--metric", "box AP=1.5"])
    alone = shutil.copy(trained.checkpoint, tmp_path / "alone.pth")
    found = []
    for number, text in enumerate((trained.work_dir, tmp_path / "saved", alone)):
        out = tmp_path / f"{number}.json"
        work_dir = tmp_path / f"work_{number}"
        data = [] if number == 0 else ["--data-root", shapes]
        python(tools.test, text, *data, "--device", "cpu", "--out", out, "--work-dir", work_dir)
        found.append(json.loads(out.read_text()))
    assert found[0]
    assert found[0] == found[1] == found[2]
