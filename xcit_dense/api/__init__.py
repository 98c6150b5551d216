"""What a user calls from Python: ``xcit_dense.load`` and ``xcit_dense.train``.

Imports everything below, and nothing imports this folder: the functions here and the command line use the same code.
The package's root has both names, so no module in the root may be called ``load`` or ``train``.
"""
