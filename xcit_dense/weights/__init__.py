"""Checkpoint files and the names of published weights. No ``nn.Module`` is known here.

Imports only :mod:`xcit_dense.errors`, :mod:`xcit_dense.variants` and ``utils``. A new published weight is a row in
``zoo.py``. A new way to name a checkpoint goes into ``resolve.py``.
"""
