"""Backbones, their parts and their pyramid, and what their weights are called.

Imports ``ops`` and ``weights``. A new variant is a row in :mod:`xcit_dense.variants`. A new backbone is a module here.
"""
