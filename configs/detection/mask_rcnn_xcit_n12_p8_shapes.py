# Mask R-CNN small enough to train from scratch on a laptop: the embedded data set, narrow neck and heads.
_base_ = "../_base_/mask_rcnn_shapes.py"
model = dict(backbone=dict(variant="nano_12_p8"), neck=dict(in_channels=[128] * 4))
