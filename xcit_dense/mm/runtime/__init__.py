"""How a run executes: launchers, processes, optimizers, shards, weights.

Imports ``mm.config`` and the folders below.
"""
