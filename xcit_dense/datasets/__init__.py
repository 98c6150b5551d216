"""Data sets as people have them: layouts, checks, and the embedded data set ``shapes``.

Imports ``media``, ``structures`` and ``utils``. Knows files and arrays, not models or MM libraries.

- :mod:`.layouts` finds images and annotations in a directory. A new arrangement of directories is one more line in a
  table there.
- :mod:`.checks` reports what is wrong with a data set before training. A new check is one more report line there.
- :mod:`.shapes` generates small images with their ground truth, to train without a download.
- A new data format is a module of its own in a folder ``formats/``: it finds, reads and checks its files.
"""
