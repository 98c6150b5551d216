"""Numbers without architecture: norms, products, autocast, recomputation.

Imports only torch, torchvision, timm's layers and the folders below. A new operation comes here if it has no parameter
names of its own. An operator that replaces a compiled one of mmcv goes into ``mmcv/``, one file an operator.
"""
