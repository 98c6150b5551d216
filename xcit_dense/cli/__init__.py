"""The command ``xcit-dense``: one module for each subcommand. The files in ``tools/`` call the same functions.

The module of a subcommand has ``SUMMARY``, one line; a docstring, which ``--help`` prints; ``add_arguments(parser)``;
and ``run(args)``. The module imports torch and the MM libraries inside ``run``, so ``--help`` is quick. A new
subcommand is a module here and an entry in the table of ``main.py``.

``options`` has what the subcommands share, ``positionals`` the rule for positional arguments, ``shipped_configs`` the
configs by name. This folder may import all others.
"""

from xcit_dense.moved import old_names

__getattr__ = old_names("cli")
