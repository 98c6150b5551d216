"""Every effect of this package on other libraries: one file for each patch, with its reason.

:func:`apply` applies the patches that every user of ``xcit_dense.mm`` needs. :mod:`.no_gpu` is a context manager and
acts only inside its ``with`` statement. :mod:`.warnings_to_log` acts only in runs with a quiet console,
and :mod:`.cpu_only` in commands that hide the GPUs.

Patches import nothing of ``mm`` except ``mm.distributed``. The table in docs/architecture.md lists every patch. Before
you add a patch, look for a documented call of the library that does the same. A new patch is a file here with a
function ``install``, a line in :func:`apply`, and a row in the table.
"""

from __future__ import annotations


def apply() -> None:
    """Applies every lasting patch. Repeated calls have no further effect."""
    from xcit_dense.mm.patches import find_loader, mmcv_ext

    # These two come before the first import of an MM library. The patches below import MMEngine.
    find_loader.install()
    mmcv_ext.install()

    from xcit_dense.mm.patches import checkpoint_loaders, config_packages, panopticapi

    checkpoint_loaders.install()
    config_packages.install()
    panopticapi.install()
