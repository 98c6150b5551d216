"""Computation without architecture: norms, convolutions, autocast, recomputation, and the check for plain layers.

Imports only torch, torchvision, timm's layers and the folders below. Add an operation here if it has no parameter
names of its own. An operator that replaces a compiled operator of mmcv goes into ``mmcv/``, one file an operator.
"""
