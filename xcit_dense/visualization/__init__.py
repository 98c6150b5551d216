"""Drawings: detections and segmentations over images, levels and attention of a backbone.

Imports ``structures``, ``models`` and the folders below.
"""
