"""What a user calls from Python: ``xcit_dense.load``, ``xcit_dense.predict_large`` and ``xcit_dense.train``.

Imports everything below, and nothing imports this folder: the functions here and the command line use the same code.
The package's root has these names, so no module in the root may have one of them.
"""
