"""An integration without its library names the command that installs the library."""

import sys
from importlib import import_module

import pytest

from xcit_dense.errors import MissingLibraryError


@pytest.mark.parametrize(
    ("module", "library"), [("smp", "segmentation_models_pytorch"), ("transformers", "transformers")]
)
def test_a_missing_library_is_named_with_its_command(module, library, monkeypatch):
    name = f"xcit_dense.integrations.{module}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    for loaded in [one for one in sys.modules if one.split(".")[0] == library]:
        monkeypatch.setitem(sys.modules, loaded, None)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingLibraryError, match=rf"pip install 'xcit-dense\[{module}\]'"):
        import_module(name)
