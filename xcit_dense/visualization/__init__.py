"""Drawings: detections and label maps over images; levels and attention of a backbone.

Imports ``structures``, ``media``, ``models`` and the folders below. A new kind of drawing is a function in :mod:`.draw`
if it needs only arrays, and in :mod:`.features` if it needs a backbone.
"""
