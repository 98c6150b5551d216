"""Images and videos: found, read and written; detections as COCO-format JSON.

Imports ``utils`` and ``structures``. Knows files and arrays, not models or MM libraries. A new output format is a
module of its own here. A new video suffix goes into :mod:`xcit_dense.media.inputs`.
"""

from xcit_dense.moved import old_names

__getattr__ = old_names("media")
