"""Data sets as people have them: layouts, checks, and the embedded data set ``shapes``.

Imports ``media``, ``structures`` and ``utils``. Knows files and arrays, not models or MM libraries.

- :mod:`.formats` finds and reads data sets, one module for each format. A new arrangement of directories is one more
  line in a table of its format. A new format is one more module.
- :mod:`.prepare` makes files from a user's data once, for all processes of a run and for later runs.
- :mod:`.checks` reports what is wrong with a data set before training, one module for each kind of annotation. A new
  check is one more report line there.
- :mod:`.shapes` generates small images with their ground truth, to train without a download.
"""
