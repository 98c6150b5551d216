"""The notebook of the documentation runs from its first cell to its last one."""

import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytest.importorskip("mmdet", reason="MMDetection is not installed")
import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs/notebook.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_is_valid_and_has_no_outputs(notebook):
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) > 8
    assert not [cell for cell in code if cell.outputs or cell.execution_count]


@pytest.mark.slow
def test_the_notebook_trains_predicts_and_exports(notebook, tmp_path, monkeypatch):
    """With few images and steps. The kernel finds the commands of this environment."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    parameters.source = "train_images, val_images, iterations = 6, 3, 10"
    done = NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = {cell.source.splitlines()[-1]: cell.outputs for cell in done.cells if cell.cell_type == "code"}
    images = 'Image("seen/contact_sheet.jpg")', 'Image(work_dir / "learning_curve.png")'
    for name in ("found", *images, "exported.predict(images[1], score_thr=0.5)"):
        kinds = {kind for output in outputs[name] for kind in output.get("data", {})}
        assert kinds & {"image/png", "image/jpeg"}, name
    same = outputs["(saved.predict(images[1]).xyxy == model.predict(images[1]).xyxy).all()"]
    assert "True" in same[0].data["text/plain"]
    printed = "".join(output.get("text", "") for part in outputs.values() for output in part)
    assert "error:" not in printed
    assert (tmp_path / "found.jpg").is_file()
