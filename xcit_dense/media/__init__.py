"""Images and videos: found, read and written; detections as COCO-format JSON.

Imports ``utils`` and ``structures``; knows files and arrays, not models or MM libraries.
"""

from xcit_dense.moved import old_names

__getattr__ = old_names("media")
