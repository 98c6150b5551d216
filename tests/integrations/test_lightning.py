"""The example for Lightning trains in bfloat16 and in two processes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="install requirements/integrations.lock")

from xcit_dense import XCiT, load_weights
from xcit_dense.datasets.shapes import write_shapes

EXAMPLE = Path(__file__).parents[2] / "examples" / "lightning_segmentation.py"


@pytest.mark.slow
def test_the_example_trains_in_bfloat16_in_two_processes(tmp_path):
    data = write_shapes(tmp_path / "shapes", train=8, val=2, size=64)
    options = [
        "--variant",
        "nano_12_p16",
        "--epochs",
        "2",
        "--batch",
        "2",
        "--workers",
        "0",
        "--accelerator",
        "cpu",
        "--devices",
        "2",
    ]
    process = subprocess.run(
        [sys.executable, EXAMPLE, data, *options, "--precision", "bf16-mixed", "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert "Starting with 2 processes" in process.stderr
    assert "bfloat16" in process.stderr
    assert 0 <= float(re.findall(r"^accuracy ([\d.]+)$", process.stdout, re.MULTILINE)[-1]) <= 1
    weights = torch.load(tmp_path / "out" / "last.ckpt", weights_only=True)
    assert weights["global_step"] == 4  # two epochs of 8 images, in 2 processes with 2 images each
    assert {value.dtype for value in weights["state_dict"].values()} == {torch.float32, torch.int64}
    report = load_weights(XCiT("nano_12_p16"), tmp_path / "out" / "last.ckpt")
    assert not report.missing
