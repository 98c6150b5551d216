# Semantic FPN small enough to train from scratch on a laptop: the embedded data set, narrow neck and head.
_base_ = "../_base_/sem_fpn_shapes.py"
model = dict(backbone=dict(variant="nano_12_p8"), neck=dict(in_channels=[128] * 4))
