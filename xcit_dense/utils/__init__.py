"""Small helpers that every other folder may use: atomic file writes, progress, tables, ranks.

Imports only :mod:`xcit_dense.errors` and the standard library. A new helper comes here if two folders need the helper
and the helper knows nothing about models, weights, images or MM libraries.
"""
