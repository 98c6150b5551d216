"""A pytest plugin for the examples of docstrings: each runs in an empty directory."""

from importlib.util import find_spec

import pytest

# The library that a module of xcit_dense.integrations imports, if its name is not that of the module.
LIBRARIES = {"smp": "segmentation_models_pytorch", "detectron2": "torch"}  # detectron2.py needs no detectron2


def pytest_ignore_collect(collection_path):
    """Leaves out integrations whose library is not installed."""
    name = collection_path.stem
    if collection_path.parent.name == "integrations" and name != "__init__":
        return True if find_spec(LIBRARIES.get(name, name)) is None else None
    return None


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
