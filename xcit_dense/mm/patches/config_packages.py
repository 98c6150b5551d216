"""Adds ``xcit_dense`` to MMEngine's table of packages that ship configs.

MMEngine finds configs of other packages by ``PACKAGE::PATH``, in ``mmengine.hub.get_config`` and in a config's
``_base_``. It knows the packages from a table, for which it documents no call
(https://mmengine.readthedocs.io/en/latest/advanced_tutorials/cross_library.html).
"""

from __future__ import annotations

from mmengine.config.utils import MODULE2PACKAGE


def install() -> None:
    """Adds the package to MMEngine's table. Repeated calls have no further effect.

    Example:
        >>> from xcit_dense.mm.patches import config_packages
        >>> config_packages.install()
        >>> from mmengine.config.utils import MODULE2PACKAGE
        >>> MODULE2PACKAGE["xcit_dense"]
        'xcit_dense'
    """
    MODULE2PACKAGE["xcit_dense"] = "xcit_dense"
