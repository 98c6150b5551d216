"""The stand-in serves every operator of mmcv that MMDetection and MMSegmentation can call."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

TYPES = re.compile(r"""\btype=["'](\w+)["']""")


def directory(package):
    return Path(importlib.util.find_spec(package).origin).parent


def imports(text, level=0):
    """Pairs of a module and a name that the source imports from it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == level:
            for name in node.names:
                yield node.module, name.name


def modules_by_name():
    """The module of `mmcv.ops` that defines each name: what `mmcv.ops` exports, and the registered layers."""
    from mmengine.registry import MODELS

    layers = {name: getattr(layer, "__module__", "") for name, layer in MODELS.module_dict.items()}
    found = {name: module[len("mmcv.ops.") :] for name, module in layers.items() if module.startswith("mmcv.ops.")}
    exported = imports((directory("mmcv") / "ops" / "__init__.py").read_text(), level=1)
    return {**found, **{name: module for module, name in exported}}


def reached(package):
    """The modules of `mmcv.ops` that the sources of a library import, or name by the type of a layer."""
    modules = modules_by_name()
    found = set()
    for file in directory(package).rglob("*.py"):
        text = file.read_text(errors="replace")
        found |= {modules[name] for name in TYPES.findall(text) if name in modules}
        if "mmcv.ops" in text:
            for module, name in imports(text):
                if module == "mmcv.ops":
                    found.add(modules[name])
                elif module.startswith("mmcv.ops."):
                    found.add(module[len("mmcv.ops.") :])
    return found


def operators(modules):
    """The compiled operators that modules of `mmcv.ops` load, and the modules that they import."""
    found, done, todo = set(), set(), list(modules)
    while todo:
        module = todo.pop()
        if module in done:
            continue
        done.add(module)
        text = (directory("mmcv") / "ops" / f"{module}.py").read_text()
        todo += {other for other, _ in imports(text, level=1)}
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "load_ext":
                found |= set(ast.literal_eval(node.args[1]))
    return found


@pytest.mark.parametrize(
    ("package", "some"),
    [
        ("mmdet", {"nms", "softnms", "roi_align_forward", "ms_deform_attn_forward", "deform_roi_pool_forward"}),
        ("mmseg", {"psamask_forward", "modulated_deform_conv_forward"}),
    ],
)
def test_the_operators_that_a_library_can_call_are_served(mmcv_ops, package, some):
    from mmcv import _ext

    pytest.importorskip(package)
    needed = operators(reached(package))
    assert some <= needed
    assert needed <= set(vars(_ext))
