"""Segmentation of one image of any size, with the labels of the model on the complete image.

``segmentor.py`` makes a graph of maps of the neck and the decode head of a segmentor, and refuses what cannot be
computed by windows. ``layers.py`` has the layers that necks and heads share, ``vt_fpn.py`` the neck VT-FPN.
``predict.py`` segments files.

Imports ``mm.inference`` and the folders below, and ``streaming``.
"""
