"""Models that only predict.

Imports ``models`` and the folders below. A new way to run a trained backbone comes here.
"""
