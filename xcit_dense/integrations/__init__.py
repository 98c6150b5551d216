"""Backbones of this package in other libraries: one small module for each library, imported only by its users.

The modules import ``xcit_dense.models`` and their library. Nothing in the package imports them.
"""
