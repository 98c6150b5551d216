"""The benchmark of complete models: seconds and bytes, next to the library's heads and to timm's XCiT.

Imports ``benchmark``, which measures backbones, the other folders of ``mm``, and the folders below. Add a model to
compare with in ``contenders.py``.
"""
