"""The benchmark: seconds, bytes and multiply-adds of XCiT, of timm's XCiT and of matrix products.

Imports ``inference``, ``models`` and the folders below. Add a model to compare with in ``contenders.py``.
"""
