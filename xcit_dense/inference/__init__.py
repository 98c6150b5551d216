"""Models that only predict.

Imports ``models`` and the folders below. Add a way to run a trained backbone here.
"""
