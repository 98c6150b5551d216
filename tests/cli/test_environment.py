"""The findings of the doctor in intact environments, and in environments with the usual faults."""

import importlib.metadata
import shlex
from dataclasses import replace

import pytest
from packaging.requirements import Requirement

from xcit_dense.cli.environment import Environment, abilities, attempt_import, examine, run_backbone

HEADLESS = "pip uninstall --yes opencv-python-headless && pip install 'opencv-python-headless<4.13'"
BASE = {"torch": "2.6.0", "torchvision": "0.21.0", "timm": "1.0.20", "numpy": "2.1.0", "safetensors": "0.5.0"}
SHARED = {"opencv-python": "4.12.0", "pycocotools": "2.0.8"}
SETS = {
    "none": {},
    "onedl": {
        "onedl-mmengine": "0.10.9",
        "onedl-mmcv": "2.3.1",
        "onedl-mmdetection": "3.4.5",
        "onedl-mmsegmentation": "1.3.1",
    },
    "openmmlab": {"mmengine": "0.10.7", "mmcv-lite": "2.1.0", "mmdet": "3.3.0", "mmsegmentation": "1.2.2"},
}


def environment(libraries="onedl", errors=None, versions=None, without=(), **changes):
    """Makes an intact environment with changes; modules fail to import with the given errors."""
    installed = {**BASE, **(SHARED if libraries != "none" else {}), **SETS[libraries], **(versions or {})}
    tried = []

    def attempt(module):
        tried.append(module)
        return (errors or {}).get(module)

    intact = Environment(
        python="3.11.9",
        versions={name: version for name, version in installed.items() if name not in without},
        requirements=importlib.metadata.requires("xcit_dense"),
        requires_python=importlib.metadata.metadata("xcit_dense")["Requires-Python"],
        attempt=attempt,
        run_backbone=lambda device: None,
        stand_in=lambda: 20,
        opencv_is_headless=lambda: False,
        started=True,
        switched_off=False,
        devices={"cpu": "2 cores"},
        driver=False,
    )
    return replace(intact, **changes)


def broken(findings):
    return {finding.part: finding for finding in findings if finding.state == "broken"}


def works(findings):
    """First words of the parts that work."""
    return {what.partition(":")[0] for what, working in abilities(findings).items() if working}


EVERYTHING = {
    "the backbone",
    "detection",
    "segmentation",
    "MMDetection's own scripts on these configs",
    "MMSegmentation's own scripts on these configs",
}


@pytest.mark.parametrize("libraries", ["onedl", "openmmlab"])
def test_with_a_complete_set_everything_works(libraries):
    findings = examine(environment(libraries))
    assert broken(findings) == {}
    assert works(findings) == EVERYTHING
    (which,) = [finding.found for finding in findings if finding.part == "MM set"]
    assert which.startswith(libraries)


def test_without_mm_libraries_the_backbone_works_and_the_environment_is_not_broken():
    tried = []
    findings = examine(environment("none", attempt=tried.append))
    assert broken(findings) == {}
    assert works(findings) == {"the backbone"}
    assert findings[-1].state == "absent"
    assert "pip install 'xcit-dense[mm]'" in findings[-1].remedy
    assert tried == []


def test_two_sets_in_one_environment_are_broken():
    found = broken(examine(environment("onedl", versions={"mmengine": "0.10.7", "mmdet": "3.3.0"})))["MM set"]
    assert "onedl-mmengine" in found.found
    uninstalled = found.remedy.partition(" && ")[0].split()[3:]
    assert set(uninstalled) == {*SETS["onedl"], "mmengine", "mmdet"}
    assert "'xcit-dense[mm]'" in found.remedy


def test_two_mmcvs_are_broken():
    findings = examine(environment("openmmlab", versions={"mmcv": "2.1.0"}))
    assert "mmcv-lite and mmcv overwrite" in broken(findings)["MM set"].found
    assert "'xcit-dense[openmmlab]'" in broken(findings)["MM set"].remedy
    assert works(findings) == {"the backbone"}


@pytest.mark.parametrize("name", ["torch", "torchvision"])
def test_too_old_a_torch_is_upgraded_with_its_torchvision(name):
    findings = examine(environment(versions={name: "0.2.1"}))
    found = broken(findings)[name]
    assert found.found.startswith("0.2.1, but xcit_dense needs >=")
    assert [Requirement(text).name for text in shlex.split(found.remedy)[2:]] == ["torch", "torchvision"]
    assert works(findings) == set()


def test_versions_after_the_supported_ones_are_broken():
    found = broken(examine(environment("openmmlab", versions={"mmcv-lite": "2.2.0"})))
    assert "<2.2" in found["mmcv"].found
    assert shlex.split(found["mmcv"].remedy)[2].startswith("mmcv-lite")
    assert "operators" in found


def test_a_version_before_its_release_is_that_version():
    assert broken(examine(environment(versions={"torch": "2.9.0.dev20260101+cpu"}))) == {}


def test_pythons_that_are_not_supported_are_broken():
    findings = examine(environment(python="3.14.0"))
    assert "3.14.0, but xcit_dense needs" in broken(findings)["python"].found
    assert works(findings) == set()


def test_a_missing_base_library_is_broken():
    findings = examine(environment(without=["timm"]))
    assert broken(findings)["timm"].found == "not installed"
    assert shlex.split(broken(findings)["timm"].remedy)[2].startswith("timm>=")


def test_one_of_the_two_tasks_can_be_absent():
    findings = examine(environment(without=["onedl-mmdetection"]))
    assert broken(findings) == {}
    assert works(findings) == {"the backbone", "segmentation", "MMSegmentation's own scripts on these configs"}


@pytest.mark.parametrize("headless", [True, False])
def test_of_two_opencvs_the_headless_build_is_to_be_in_use(headless):
    versions = {"opencv-python-headless": "4.12.0"}
    findings = examine(environment(versions=versions, opencv_is_headless=lambda: headless))
    (found,) = [finding for finding in findings if finding.part == "opencv"]
    assert "opencv-python 4.12.0, opencv-python-headless 4.12.0" in found.found
    if headless:
        assert (found.state, found.remedy) == ("ok", None)
    else:
        assert (found.state, found.remedy) == ("limited", HEADLESS)
        assert "remove the headless package and install it again" in found.found


def test_operators_that_are_switched_off_are_named():
    findings = examine(environment(switched_off=True))
    found = {finding.part: finding for finding in findings if "XCIT_DENSE_OPERATORS=0" in finding.found}
    assert {part: finding.state for part, finding in found.items()} == {
        "operators": "limited",
        "start-up file": "absent",
    }
    assert {finding.remedy for finding in found.values()} == {"unset XCIT_DENSE_OPERATORS"}


def test_operators_that_are_switched_off_and_missing_are_broken():
    error = "ModuleNotFoundError: No module named 'mmcv._ext'"
    found = broken(examine(environment(switched_off=True, errors={"mmcv.ops": error})))
    assert error in found["operators"].found


def test_libraries_without_mmengine_are_broken():
    findings = examine(environment(without=["onedl-mmengine"]))
    assert {"mmengine", "operators"} <= broken(findings).keys()
    assert works(findings) == {"the backbone"}


@pytest.mark.parametrize(
    ("module", "error", "remedy"),
    [
        (
            "cv2",
            "ImportError: libGL.so.1: cannot open shared object file",
            HEADLESS,
        ),
        ("cv2", "ModuleNotFoundError: No module named 'cv2'", "pip install opencv-python-headless"),
        ("pycocotools.mask", "ValueError: numpy.dtype size changed, may indicate", "pip install 'numpy<2'"),
        ("mmdet.apis", "AttributeError: module 'numpy' has no attribute 'bool'", "pip install 'numpy<2'"),
        ("mmseg.apis", "ModuleNotFoundError: No module named 'ftfy'", "pip install ftfy"),
        (
            "mmengine.runner",
            "ModuleNotFoundError: No module named 'mmengine.runner'",
            "pip install --force-reinstall 'mmengine<0.11,>=0.10.4'",
        ),
        ("mmdet.apis", "RuntimeError: odd", "pip install --force-reinstall 'mmdet<4,>=3.3'"),
    ],
)
def test_a_library_that_cannot_be_imported_is_broken_and_has_a_remedy(module, error, remedy):
    findings = examine(environment("openmmlab", {module: error}))
    found = [finding for finding in broken(findings).values() if error in finding.found]
    assert [finding.remedy for finding in found] == [remedy]
    assert works(findings) < EVERYTHING or module in ("cv2", "pycocotools.mask")


def test_with_numpy_1_a_library_compiled_for_another_is_installed_again():
    errors = {"pycocotools.mask": "ImportError: numpy.core.multiarray failed to import"}
    found = broken(examine(environment(errors=errors, versions={"numpy": "1.26.4"})))
    assert found["pycocotools"].remedy == "pip install --force-reinstall pycocotools"


def test_compiled_operators_are_distinguished_from_torchvision_operators():
    def operators(**changes):
        return next(one for one in examine(environment("openmmlab", **changes)) if one.part == "operators")

    assert (operators().state, operators(stand_in=lambda: 0).state) == ("limited", "ok")
    assert "torchvision" in operators().found
    assert operators(stand_in=lambda: 0).found == "compiled"
    assert operators(stand_in=lambda: 20).found.startswith("20 of mmcv's operators")


def test_operators_compiled_for_another_torch_are_broken():
    errors = {"mmcv.ops": "ImportError: mmcv/_ext.so: undefined symbol: _ZN5torch"}
    versions, without = {"mmcv": "2.1.0"}, ["mmcv-lite"]
    findings = examine(environment("openmmlab", errors, versions, without, stand_in=lambda: 0))
    remedy = broken(findings)["operators"].remedy
    assert remedy == "pip uninstall --yes mmcv && pip install 'mmcv-lite<2.2,>=2.1'"
    assert works(findings) == {"the backbone"}


@pytest.mark.parametrize("stand_in", [20, 0])
def test_the_start_up_file_is_needed_only_without_compiled_operators(stand_in):
    findings = examine(environment(started=False, stand_in=lambda: stand_in))
    assert broken(findings) == {}
    assert works(findings) == ({"the backbone", "detection", "segmentation"} if stand_in else EVERYTHING)


@pytest.mark.parametrize("torch", ["2.6.0+cpu", "2.6.0"])
def test_a_gpu_that_torch_does_not_see_is_reported(torch):
    findings = examine(environment(driver=True, versions={"torch": torch}))
    (gpu,) = [finding for finding in findings if finding.part == "cuda"]
    assert gpu.state == "limited"
    assert ("CPUs only" in gpu.found) == torch.endswith("+cpu")
    assert works(findings) == EVERYTHING


def test_a_device_on_which_the_backbone_fails_is_broken():
    devices = {"cpu": "2 cores", "cuda": "a GPU"}
    error = "RuntimeError: no kernel image is available"
    findings = examine(environment(devices=devices, run_backbone={"cuda": error}.get))
    assert error in broken(findings)["cuda"].found
    assert broken(findings).keys() == {"cuda"}


def test_a_clone_that_is_not_installed_is_examined_too():
    findings = examine(environment(requirements=[], requires_python=""))
    assert broken(findings) == {}
    assert works(findings) == EVERYTHING
    assert findings[1].part == "xcit_dense"


def test_an_import_error_is_returned_in_one_line(tmp_path, monkeypatch, capfd):
    (tmp_path / "noisy.py").write_text("print('noise'); raise AssertionError('first\\nsecond')")
    monkeypatch.syspath_prepend(tmp_path)
    assert attempt_import("noisy") == "AssertionError: first"
    assert attempt_import("no.such") == "ModuleNotFoundError: No module named 'no'"
    assert attempt_import("json") is None
    assert capfd.readouterr() == ("", "")


def test_the_backbone_runs_here_and_not_on_a_device_that_is_not_here():
    assert run_backbone("cpu") is None
    assert "RuntimeError" in run_backbone("no-device")


def test_this_environment_is_read():
    here = Environment.here()
    assert here.versions["torch"] == importlib.metadata.version("torch")
    assert here.requirements == importlib.metadata.requires("xcit_dense")
    assert "cpu" in here.devices
    assert here.started
