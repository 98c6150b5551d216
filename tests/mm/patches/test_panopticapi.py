"""The stand-in serves what MMDetection imports from panopticapi, and gives way to an installed panopticapi."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

pytest.importorskip("mmdet", reason="MMDetection is not installed")
import xcit_dense.mm  # noqa: F401  isort: skip
from xcit_dense.mm.patches import panopticapi as patch


@pytest.mark.skipif(find_spec("panopticapi").origin != "xcit_dense's part of panopticapi", reason="it is installed")
def test_mmdetection_finds_each_name_that_it_imports():
    from panopticapi.evaluation import OFFSET, VOID, PQStat
    from panopticapi.utils import id2rgb, rgb2id

    assert (VOID, OFFSET) == (0, 256**3)
    assert rgb2id(id2rgb(123_456)) == 123_456
    assert PQStat()[3].tp == 0
    with pytest.raises(ImportError):
        from panopticapi.evaluation import pq_compute  # noqa: F401


def test_an_installed_panopticapi_is_preferred(tmp_path):
    package = tmp_path / "panopticapi"
    package.mkdir()
    (package / "__init__.py").write_text("installed = True\n")
    # The patch is run from its file, because the import of its package takes much longer than the test.
    code = (
        "import runpy, sys; runpy.run_path(sys.argv[1])['install'](); import panopticapi; assert panopticapi.installed"
    )
    command = [sys.executable, "-c", code, patch.__file__]
    subprocess.run(command, check=True, env={"PYTHONPATH": str(tmp_path)}, timeout=300)
