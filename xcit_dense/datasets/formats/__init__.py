"""Formats of data sets, one module for each.

A module of a format with boxes or polygons has ``find(root) -> ObjectData | None``. A module of a format with label
images has ``find(root) -> LabelData | None``. ``find`` returns None if the directory has another format. ``find``
raises ``UserError`` if the directory has this format, but a fault.
"""
