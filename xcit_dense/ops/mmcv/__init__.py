"""mmcv's compiled operators on torchvision and PyTorch, one file for each operator.

A new operator is a file here, with the signature of ``mmcv._ext``, and an entry in the table of
:mod:`xcit_dense.mm.patches.mmcv_ext`. Modules here import torch and torchvision, not mmcv.
"""
