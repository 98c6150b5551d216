"""Executes runs: launchers, processes, optimizers, shards, weights, console.

Imports ``mm.config`` and the folders below.
"""
