"""The complete package: what it imports, exports and documents."""

import ast
import importlib.metadata
from pathlib import Path

import pytest

import xcit_dense

PACKAGE = Path(xcit_dense.__file__).parent
MM = {"mmengine", "mmcv", "mmdet", "mmseg"}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
"""Files by the module's name inside the package; the package itself is ``__init__``."""


@pytest.fixture(scope="module")
def trees():
    """The modules, parsed."""
    return {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def loaded_by(python, statement):
    """Modules that a statement imports in a fresh process."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - before))"
    return python("-c", code).stdout.split()


def test_importing_the_package_does_not_import_torch(python):
    loaded = loaded_by(python, "import xcit_dense")
    assert "xcit_dense" in loaded
    assert not {"torch", "timm", "numpy"} & set(loaded)


def test_importing_the_backbone_does_not_import_an_mm_library(python):
    loaded = loaded_by(python, "from xcit_dense import XCiT")
    assert "xcit_dense.models.xcit" in loaded
    assert not [name for name in loaded if name.split(".")[0] in MM or name.startswith("xcit_dense.mm")]


def test_the_version_equals_the_version_of_the_installed_package():
    assert xcit_dense.__version__ == importlib.metadata.version("xcit_dense")


def test_every_name_in_all_exists():
    assert {"XCiT", "VARIANTS", "__version__", "list_weights", "load_weights"} <= set(xcit_dense.__all__)
    assert all(hasattr(xcit_dense, name) for name in xcit_dense.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(trees, name):
    def public(body, prefix):
        for node in body:
            decorators = [ast.unparse(decorator) for decorator in getattr(node, "decorator_list", [])]
            if any(decorator.endswith(".setter") for decorator in decorators):
                continue  # the getter has the docstring of the property
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                yield f"{prefix}{node.name}", node
                if isinstance(node, ast.ClassDef):
                    yield from public(node.body, f"{prefix}{node.name}.")

    tree = trees[name]
    silent = [path for path, node in public(tree.body, "") if not ast.get_docstring(node)]
    assert ast.get_docstring(tree) or not tree.body
    assert silent == []
