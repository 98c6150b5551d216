"""Segmentation of one image of any size, with the results of the model on the complete image.

``heads.py`` makes graphs of maps of necks and decode heads, and refuses what cannot be computed by parts of an image.
``layers.py`` has the layers that necks and heads share, ``vt_fpn.py`` the neck VT-FPN. ``segmentor.py`` computes labels
window by window, and ``predict.py`` segments files. ``training.py`` has the segmentor that divides the images of a
training over processes.

Imports ``mm.inference`` and the folders below, and ``streaming``.
"""
