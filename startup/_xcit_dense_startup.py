"""Python runs this file at every start, because xcit_dense.pth names it. Keep it small, and import nothing slow.

MMDetection's own scripts import ``mmcv._ext`` before they read a config, so before the config can import xcit_dense.
This file adds an importer that waits for the name ``mmcv._ext``. Python asks the importer only if no other importer has
found the module, so a compiled mmcv is used if there is one. The importer then loads two patches of
``xcit_dense.mm.patches`` by their paths. It does not import the package ``xcit_dense.mm``, because ``xcit_dense.mm``
imports the MM libraries, and one of them is being imported at that moment.

``XCIT_DENSE_OPERATORS=0`` in the environment switches this file off.
"""

import os
import sys

PATCHES = ("find_loader", "mmcv_ext")


class _Waiting:
    """The importer that waits for ``mmcv._ext``."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "mmcv._ext":
            from importlib.util import find_spec, module_from_spec, spec_from_file_location

            package = find_spec("xcit_dense")
            if package is not None and package.submodule_search_locations:
                for patch in PATCHES:
                    file = f"{package.submodule_search_locations[0]}/mm/patches/{patch}.py"
                    spec = spec_from_file_location(f"_xcit_dense_{patch}", file)
                    assert spec is not None
                    assert spec.loader is not None
                    module = module_from_spec(spec)
                    spec.loader.exec_module(module)
                    module.install()  # mmcv_ext appends the importer that Python asks next


if os.environ.get("XCIT_DENSE_OPERATORS") != "0":
    sys.meta_path.append(_Waiting)
