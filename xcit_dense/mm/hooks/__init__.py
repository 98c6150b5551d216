"""Hooks of MMEngine's runners, one file each.

Imports ``mm.inference``, ``mm.runtime`` and the folders below. A new hook is a file here and an import in
``xcit_dense/mm/__init__.py``.
"""

from xcit_dense.moved import old_names

__getattr__ = old_names("mm.hooks")
