"""Reads configs, sets their data, and checks them.

Imports nothing of ``mm`` but ``patches``. A new check of a config goes into ``checks.py``.
"""

from xcit_dense.moved import old_names

__getattr__ = old_names("mm.config")
