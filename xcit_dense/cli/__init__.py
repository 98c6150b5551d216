"""The command line ``xcit-dense``: one module a subcommand. The files in ``tools/`` call the same functions.

A module of a subcommand imports torch and MM libraries inside its functions, so that ``--help`` is quick. A new
subcommand is a module here and an entry in the table of ``main.py``.
"""

from xcit_dense.moved import old_names

__getattr__ = old_names("cli")
