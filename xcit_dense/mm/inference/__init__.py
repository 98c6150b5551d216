"""Inference with models of the MM libraries: predictions, class names, and images of augmented training data.

Imports ``mm.runtime`` and the folders below.
"""
