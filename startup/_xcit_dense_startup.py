"""Run at every start of Python, by xcit_dense.pth: keep it small, import nothing.

MMDetection's own scripts import ``mmcv._ext`` before they read a config, so before xcit_dense can be imported. This
importer waits for that name. Then it loads :mod:`xcit_dense.mm.patches.mmcv_ext` by its path, because importing the
package ``xcit_dense.mm`` would import the MM libraries, which are perhaps being imported.
"""

import sys


class _Waiting:
    """Asked for each module that nobody else finds."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "mmcv._ext":
            from importlib.util import find_spec, module_from_spec, spec_from_file_location

            package = find_spec("xcit_dense")
            if package is not None and package.submodule_search_locations:
                file = f"{package.submodule_search_locations[0]}/mm/patches/mmcv_ext.py"
                spec = spec_from_file_location("_xcit_dense_operators", file)
                assert spec is not None
                assert spec.loader is not None
                operators = module_from_spec(spec)
                spec.loader.exec_module(operators)
                operators.install()  # appends the importer that Python asks next


sys.meta_path.append(_Waiting)
