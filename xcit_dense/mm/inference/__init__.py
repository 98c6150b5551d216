"""Models of the MM libraries at work: predictions as a stream, class names, training data as the model sees it.

Imports ``mm.runtime`` and the folders below.
"""
