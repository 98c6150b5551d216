"""mmcv's call of pkgutil.find_loader works on Python versions that have removed the function."""

import pytest

pytest.importorskip("mmcv", reason="mmcv is not installed")

TAKE_AWAY = "import pkgutil; vars(pkgutil).pop('find_loader', None)\n"
ASK = "from mmcv.utils import ext_loader; print(ext_loader.check_ops_exist())\n"


def test_without_the_function_mmcv_fails(python):
    assert "find_loader" in python("-c", TAKE_AWAY + ASK, status=1).stderr


def test_importing_the_package_brings_the_function_back(python):
    assert python("-c", TAKE_AWAY + "import xcit_dense.mm\n" + ASK).stdout.split()[-1] == "True"


def test_the_start_up_file_brings_the_function_back_before_the_package_is_imported(python):
    code = "import sys, mmcv.ops\n" + ASK + "print('xcit_dense.mm' in sys.modules)"
    assert python("-c", TAKE_AWAY + code).stdout.split()[-2:] == ["True", "False"]


def test_the_function_answers_as_pythons_own(python):
    code = (
        "from importlib.util import module_from_spec, spec_from_file_location\n"
        "import sys\nspec = spec_from_file_location('patch', sys.argv[1])\n"
        "patch = module_from_spec(spec)\nspec.loader.exec_module(patch)\n"
        "patch.install()\nkept = pkgutil.find_loader\npatch.install()\n"
        "print(kept('json').name, kept('no_such_module'), pkgutil.find_loader is kept)\n"
        "try:\n    kept('no_such_module.inside')\nexcept ImportError:\n    print('refused')"
    )
    from xcit_dense.mm.patches import find_loader

    assert python("-c", TAKE_AWAY + code, find_loader.__file__).stdout.split() == ["json", "None", "True", "refused"]
