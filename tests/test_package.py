"""The package as a whole: what it imports, exports and documents."""

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


def statements(body):
    """Statements run when a module is imported: not those of functions, nor those for type checkers."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from statements(node.orelse)
            continue
        yield node
        for field in ("body", "orelse", "finalbody"):
            yield from statements(getattr(node, field, []))
        for handler in getattr(node, "handlers", []):
            yield from statements(handler.body)


def imports(name, nodes):
    """Absolute names of what the nodes of a module import."""
    package = ["xcit_dense", *name.split(".")] if name != "__init__" else ["xcit_dense"]
    if MODULES[name].name != "__init__.py":
        package.pop()
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def rooms(name, nodes):
    """First-level modules of the package that the nodes of a module import."""
    inside = (found.split(".")[1] for found in imports(name, nodes) if found.startswith("xcit_dense."))
    return {room for room in inside if room in MODULES}


def test_importing_the_package_imports_no_mm_library(python):
    code = "import sys; before = set(sys.modules); import xcit_dense; print(*sorted(set(sys.modules) - before))"
    loaded = python("-c", code).stdout.split()
    assert "xcit_dense.backbone" in loaded
    assert not [name for name in loaded if name.split(".")[0] in MM or name.startswith("xcit_dense.mm")]


def test_the_version_is_that_of_the_installed_package():
    assert xcit_dense.__version__ == importlib.metadata.version("xcit_dense")


def test_the_package_exports_what_it_says():
    assert {"XCiT", "VARIANTS", "__version__", "list_weights", "load_weights"} <= set(xcit_dense.__all__)
    assert all(hasattr(xcit_dense, name) for name in xcit_dense.__all__)


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[0] != "mm"])
def test_nothing_outside_mm_imports_an_mm_library_when_imported(trees, name):
    found = set(imports(name, statements(trees[name].body)))
    assert not {module for module in found if module.split(".")[0] in MM}
    assert not {module for module in found if module.startswith("xcit_dense.mm")}


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("errors", set()),
        ("variants", {"errors"}),
        ("norms", {"errors", "variants"}),
        ("lean", {"norms"}),
        ("xca", {"errors", "lean"}),
        ("download", {"errors", "safe_load"}),
        ("safe_load", {"errors"}),
        ("checkpoint", {"errors", "variants", "zoo", "safe_load"}),
        ("zoo", {"errors", "variants", "download", "safe_load"}),
        ("blocks", {"errors", "norms", "lean", "xca"}),
        ("pyramid", {"errors", "norms", "lean"}),
        ("backbone", {"errors", "variants", "norms", "blocks", "pyramid", "checkpoint"}),
        ("deploy", {"errors", "lean", "blocks", "backbone"}),
    ],
)
def test_the_backbone_is_built_from_the_bottom_up(trees, name, allowed):
    assert rooms(name, ast.walk(trees[name])) <= allowed


def test_dependencies_point_one_way(trees):
    needs = {name: set() for name in trees}
    for name, tree in trees.items():
        room = name.split(".")[0]
        needs[room] = needs.get(room, set()) | rooms(name, ast.walk(tree)) - {room}
    while needs:
        lowest = {name for name, others in needs.items() if not others & needs.keys()}
        assert lowest, f"these import each other in a circle: {sorted(needs)}"
        needs = {name: others for name, others in needs.items() if name not in lowest}


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(trees, name):
    def public(body, prefix):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                yield f"{prefix}{node.name}", node
                if isinstance(node, ast.ClassDef):
                    yield from public(node.body, f"{prefix}{node.name}.")

    tree = trees[name]
    silent = [path for path, node in public(tree.body, "") if not ast.get_docstring(node)]
    assert ast.get_docstring(tree) or not tree.body
    assert silent == []
