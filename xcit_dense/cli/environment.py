"""Examines the environment: what is installed, what works, and the command that fixes the rest.

Versions are compared with the requirements in setup.py, which pip stores next to the package. A library can fail
although its version is right, so libraries are imported, and a small backbone runs.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import os
import platform
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

State = Literal["ok", "limited", "absent", "broken"]

MODULES = {
    "mmengine": ("onedl-mmengine", "mmengine"),
    "mmcv": ("onedl-mmcv", "mmcv-lite", "mmcv"),
    "mmdet": ("onedl-mmdetection", "mmdet"),
    "mmseg": ("onedl-mmsegmentation", "mmsegmentation"),
}
"""Modules of the MM libraries, and the distributions that may install each; the first is the maintained fork."""

_TOGETHER = ("torch", "torchvision")  # each torchvision works with one torch
_BASE = ("torch", "torchvision", "timm", "numpy", "safetensors")
_TRIED = {"mmengine": "mmengine.runner", "mmcv": "mmcv", "mmdet": "mmdet.apis", "mmseg": "mmseg.apis"}
_DISTRIBUTIONS = {"cv2": "opencv-python-headless", "PIL": "pillow"}  # where the name differs from the module's
# opencv-python and opencv-python-headless write the same files. The build installed last is in use, and the metadata of
# the other keeps pip from installing it again.
# imaug, which onedl-mmdetection requires, refuses 4.13.
_HEADLESS = "pip uninstall --yes opencv-python-headless && pip install 'opencv-python-headless<4.13'"
_CLONE = "pip install .  # in a clone of xcit_dense"


@dataclass(frozen=True)
class Finding:
    """The state of one part of the environment.

    Attributes:
        part: A library, or another thing that may work or not.
        state: ``'ok'``; ``'limited'`` or ``'absent'`` if something is missing that not everyone needs; ``'broken'`` if
            the part is installed and does not work, or if it is missing and installed libraries need it.
        found: A version, a device, or what is wrong.
        remedy: The command that fixes or adds the part.
    """

    part: str
    state: State
    found: str
    remedy: str | None = None


@dataclass(frozen=True)
class Environment:
    """What an examination looks at.

    Attributes:
        python: The version of Python.
        versions: Installed distributions.
        requirements: The requirements of xcit_dense, with extras; empty if it runs from a clone without installation.
        requires_python: The versions of Python that xcit_dense supports.
        attempt: Imports a module; returns None or the error.
        run_backbone: Runs a small backbone on a device; returns None or the error.
        stand_in: The number of operators that the stand-in for mmcv's compiled operators has. 0 if mmcv has compiled
            operators. Called after mmcv was imported.
        opencv_is_headless: Whether cv2 is a build without windows. Called after cv2 was imported.
        started: Whether the start-up file has run.
        switched_off: Whether ``XCIT_DENSE_OPERATORS=0`` is set.
        devices: ``'cpu'`` and the GPUs, with names.
        driver: Whether this machine has an NVIDIA driver.
    """

    python: str
    versions: Mapping[str, str]
    requirements: Sequence[str]
    requires_python: str
    attempt: Callable[[str], str | None]
    run_backbone: Callable[[str], str | None]
    stand_in: Callable[[], int]
    opencv_is_headless: Callable[[], bool]
    started: bool
    switched_off: bool
    devices: Mapping[str, str]
    driver: bool

    @classmethod
    def here(cls) -> Environment:
        """Describes the environment of this process."""
        named = (
            (distribution.metadata["Name"], distribution.version) for distribution in importlib.metadata.distributions()
        )
        try:
            own = importlib.metadata.metadata("xcit_dense")
            requirements, requires_python = own.get_all("Requires-Dist") or [], own["Requires-Python"] or ""
        except importlib.metadata.PackageNotFoundError:
            requirements, requires_python = [], ""
        return cls(
            python=platform.python_version(),
            versions={canonicalize_name(name): version for name, version in named if name},
            requirements=requirements,
            requires_python=requires_python,
            attempt=attempt_import,
            run_backbone=run_backbone,
            stand_in=_stand_in,
            opencv_is_headless=_opencv_is_headless,
            started="_xcit_dense_startup" in sys.modules,
            switched_off=os.environ.get("XCIT_DENSE_OPERATORS") == "0",
            devices=_devices(),
            driver=shutil.which("nvidia-smi") is not None,
        )


def examine(environment: Environment) -> list[Finding]:
    """Examines an environment.

    Args:
        environment: The environment.

    Returns:
        Findings, in the order in which to read them.
    """
    findings = [_check_python(environment), *_check_base(environment), *_check_devices(environment)]
    present = {
        module: [name for name in names if name in environment.versions]
        for module, names in MODULES.items()
        if any(name in environment.versions for name in names)
    }
    if not present:
        return [*findings, Finding("MM set", "absent", "none, which detection and segmentation need", _install("mm"))]
    return [*findings, *_check_mm(environment, present)]


def abilities(findings: Sequence[Finding]) -> dict[str, bool]:
    """Derives what works.

    Args:
        findings: From :func:`examine`.

    Returns:
        For each use of this package, whether it works.
    """
    working = {finding.part for finding in findings if finding.state in ("ok", "limited")}
    working -= {finding.part for finding in findings if finding.state == "broken"}
    base = {"python", "torch", "torchvision", "timm", "numpy", "safetensors", "cpu"}
    mm = base | {"MM set", "mmengine", "mmcv", "operators"}
    return {
        "the backbone: XCiT, from_pretrained, deploy": base <= working,
        "detection: the tools on configs/detection": mm | {"mmdet"} <= working,
        "segmentation: the tools on configs/segmentation": mm | {"mmseg"} <= working,
        "MMDetection's own scripts on these configs": mm | {"mmdet", "start-up file"} <= working,
        "MMSegmentation's own scripts on these configs": mm | {"mmseg", "start-up file"} <= working,
    }


def attempt_import(module: str) -> str | None:
    """Imports a module and prints nothing.

    Args:
        module: The name of the module.

    Returns:
        None, or the error in one line.
    """
    return _attempt(lambda: importlib.import_module(module))


def run_backbone(device: str) -> str | None:
    """Runs a small backbone and NMS on a NumPy array. This fails if torch, torchvision and NumPy do not fit together.

    Args:
        device: ``'cpu'`` or another device of torch.

    Returns:
        None, or the error in one line.
    """

    def run() -> None:
        import numpy as np
        import torch
        from torchvision.ops import nms

        from xcit_dense.models.xcit import XCiT

        backbone = XCiT(patch_size=8, embed_dim=16, depth=4, num_heads=2).to(device).eval()
        image = torch.from_numpy(np.zeros((1, 3, 16, 16), np.float32)).to(device)
        with torch.no_grad():
            backbone(image)
        nms(torch.ones(1, 4, device=device), torch.ones(1, device=device), 0.5)

    return _attempt(run)


def _attempt(action: Callable[[], object]) -> str | None:
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            action()
    except Exception as error:  # a library that does not fit may raise anything
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0]}"
    return None


def _stand_in() -> int:
    from xcit_dense.mm.patches import mmcv_ext

    return mmcv_ext.served() if mmcv_ext.serving() else 0


def _opencv_is_headless() -> bool:
    import cv2

    return bool(re.search(r"GUI:\s+NONE", cv2.getBuildInformation()))


def _devices() -> dict[str, str]:
    import torch

    devices = {"cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        devices["cuda"] = f"{torch.cuda.device_count()} x {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple's GPU"
    return devices


def _check_python(environment: Environment) -> Finding:
    if environment.python in SpecifierSet(environment.requires_python):
        return Finding("python", "ok", environment.python)
    return Finding(
        "python",
        "broken",
        f"{environment.python}, but xcit_dense needs {environment.requires_python}",
        "python3.12 -m venv .venv && . .venv/bin/activate && pip install '.[mm]'  # in a clone of xcit_dense",
    )


def _check_base(environment: Environment) -> Iterator[Finding]:
    if not environment.requirements:
        yield Finding("xcit_dense", "limited", "not installed, it runs from a clone: versions are not compared", _CLONE)
    for name in _BASE:
        together = _TOGETHER if name in _TOGETHER else (name,)
        remedy = _pip(*(_requirement(environment, one) for one in together))
        yield _check_version(environment, name, remedy)


def _check_devices(environment: Environment) -> Iterator[Finding]:
    for device, name in environment.devices.items():
        error = environment.run_backbone(device)
        if error:
            remedy = _fix(environment, error, *_TOGETHER)
            yield Finding(device, "broken", f"{name}: a small XCiT does not run: {error}", remedy)
        else:
            yield Finding(device, "ok", name)
    if environment.driver and "cuda" not in environment.devices:
        if environment.versions.get("torch", "").endswith("+cpu"):
            found = "there is a driver, but this torch is for CPUs only"
            yield Finding("cuda", "limited", found, _pip("--force-reinstall", *_TOGETHER))
        else:
            found = "there is a driver, but torch finds no GPU: it is hidden, or the driver is too old for this torch"
            yield Finding("cuda", "limited", found, "nvidia-smi; echo $CUDA_VISIBLE_DEVICES")


def _check_mm(environment: Environment, present: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    everything = [name for names in present.values() for name in names]
    onedl = [name for name in everything if name.startswith("onedl-")]
    others = [name for name in everything if name not in onedl]
    extra = "openmmlab" if len(others) > len(onedl) else "mm"
    new_set = f"pip uninstall --yes {' '.join(everything)} && {_install(extra)}"
    twice = next((names for names in present.values() if len(names) > 1), None)
    if onedl and others:
        found = f"two that overwrite each other: {', '.join(onedl)}; {', '.join(others)}"
        yield Finding("MM set", "broken", found, new_set)
    elif twice:
        yield Finding("MM set", "broken", f"{' and '.join(twice)} overwrite each other", new_set)
    else:
        yield Finding("MM set", "ok", "onedl, the maintained forks" if onedl else "openmmlab, the original ones")

    for name, module in (("opencv", "cv2"), ("pycocotools", "pycocotools.mask")):
        versions = [f"{one} {version}" for one, version in environment.versions.items() if one.startswith(name)]
        finding = _check_import(
            environment, name, ", ".join(sorted(versions)), module, _DISTRIBUTIONS.get(module, name)
        )
        if finding.state == "ok" and len(versions) > 1:
            if environment.opencv_is_headless():
                finding = Finding(name, "ok", f"{finding.found}; the headless build is in use")
            else:
                several = (
                    f"{finding.found}; the build with windows has overwritten the headless one: remove the headless "
                    "package and install it again"
                )
                finding = Finding(name, "limited", several, _HEADLESS)
        yield finding
    broken = False
    for module, tried in _TRIED.items():
        names = present.get(module, [])
        if not names:
            needed = module in ("mmengine", "mmcv")  # the other libraries import them
            yield Finding(module, "broken" if needed else "absent", "not installed", _install(extra))
            broken |= needed
            continue
        requirement = _requirement(environment, names[0])
        finding = _check_version(environment, names[0], _pip(requirement))
        if finding.state == "ok":
            finding = _check_import(environment, module, f"{names[0]} {finding.found}", tried, requirement)
        yield replace(finding, part=module)
        broken |= finding.state == "broken"
        if module == "mmcv":
            yield from _check_operators(environment, names[0], requirement, broken)


def _check_operators(environment: Environment, name: str, requirement: str, broken: bool) -> Iterator[Finding]:
    """Checks the operators and the start-up file, before a library that needs them is imported."""
    if environment.switched_off:
        found = "XCIT_DENSE_OPERATORS=0 is set, so an mmcv without compiled operators stays as it is"
        error = environment.attempt("mmcv.ops") if not broken else "not tried"
        state: State = "broken" if error else "limited"
        yield Finding("operators", state, f"{found}: {error}" if error else found, "unset XCIT_DENSE_OPERATORS")
        yield Finding("start-up file", "absent", "switched off by XCIT_DENSE_OPERATORS=0", "unset XCIT_DENSE_OPERATORS")
        return
    error = environment.attempt("xcit_dense.mm") if not broken else None
    if broken or error:
        found = error or "not tried: MMEngine and MMCV come first"
        yield Finding("operators", "broken", found, _fix(environment, error or "", requirement) if error else None)
        return
    stand_in = environment.stand_in()
    error = environment.attempt("mmcv.ops")
    if error:
        # mmcv's operators were compiled for another torch.
        remedy = f"pip uninstall --yes {name} && {_pip(_requirement(environment, 'mmcv-lite'))}"
        yield Finding("operators", "broken", error, remedy if name == "mmcv" else _fix(environment, error, requirement))
    elif stand_in:
        found = f"{stand_in} of mmcv's operators, on torchvision and PyTorch; others raise an error"
        compiled = shlex.quote(_requirement(environment, "mmcv"))
        more = f"pip uninstall --yes {name} && pip install openmim && mim install {compiled}"
        yield Finding("operators", "limited", found, None if name.startswith("onedl-") else more)
    else:
        yield Finding("operators", "ok", "compiled")
    if environment.started:
        yield Finding("start-up file", "ok", "in place")
    elif stand_in:
        yield Finding("start-up file", "absent", "not in place, so only xcit-dense and tools/ have operators", _CLONE)
    else:
        yield Finding("start-up file", "ok", "not in place, and not needed with compiled operators")


def _check_version(environment: Environment, name: str, remedy: str) -> Finding:
    version = environment.versions.get(name)
    specifier = Requirement(_requirement(environment, name)).specifier
    if version is None:
        return Finding(name, "broken", "not installed", remedy)
    if specifier.contains(version, prereleases=True):
        return Finding(name, "ok", version)
    return Finding(name, "broken", f"{version}, but xcit_dense needs {specifier}", remedy)


def _check_import(environment: Environment, part: str, found: str, module: str, requirement: str) -> Finding:
    error = environment.attempt(module)
    if error is None:
        return Finding(part, "ok", found)
    return Finding(part, "broken", f"{found}: {error}".removeprefix(": "), _fix(environment, error, requirement))


def _fix(environment: Environment, error: str, *requirements: str) -> str:
    """Finds the command that fixes an error of an import; by default it installs the distributions again."""
    if re.search(r"libGL|libgthread|libSM|libXext|libxcb", error):  # libraries of a display, which servers lack
        return _HEADLESS
    of_numpy = r"_ARRAY_API|multiarray|dtype size changed|module 'numpy' has no|Numpy is not available|NumPy 1"
    if re.search(of_numpy, error) and int(environment.versions.get("numpy", "0").split(".")[0]) >= 2:
        return "pip install 'numpy<2'"
    missing = re.search(r"No module named '(\w+)", error)
    if missing:
        name = _DISTRIBUTIONS.get(missing[1], missing[1])
        there = [name for name in MODULES.get(missing[1], ()) if name in environment.versions]
        if not there:
            return _pip(name)
        requirements = tuple(_requirement(environment, name) for name in there)
    return _pip("--force-reinstall", *requirements)


def _wanted(environment: Environment) -> dict[str, str]:
    """The requirements of this package by name, without markers."""
    parsed = [Requirement(text) for text in environment.requirements]
    return {canonicalize_name(one.name): f"{one.name}{one.specifier}" for one in parsed}


def _requirement(environment: Environment, name: str) -> str:
    wanted = _wanted(environment)
    if name == "mmcv" and "mmcv-lite" in wanted:  # mmcv-lite is mmcv without operators
        return wanted["mmcv-lite"].replace("mmcv-lite", "mmcv")
    return wanted.get(name, name)


def _pip(*requirements: str) -> str:
    return f"pip install {shlex.join(requirements)}"


def _install(extra: str) -> str:
    return f"pip install 'xcit-dense[{extra}]'"
