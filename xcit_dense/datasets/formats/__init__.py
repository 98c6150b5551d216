"""Formats of data sets, one module for each.

A module of a format with boxes or polygons has ``find(path) -> ObjectData | None``. A module of a format with label
images has ``find(path) -> LabelData | None``. ``find`` returns None if the directory has another format. It raises
``UserError`` if the directory has this format, but a fault. :mod:`.recognise` has the table of all formats.
"""
