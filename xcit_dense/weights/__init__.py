"""Checkpoint files and the names of published weights. This folder does not know any ``nn.Module``.

It imports :mod:`xcit_dense.errors`, :mod:`xcit_dense.variants` and ``utils``. A new published weight is a row in
``zoo.py``. A new way to name a checkpoint goes into ``resolve.py``. A new type that checkpoints contain goes into the
list in ``safe_load.py``.
"""
