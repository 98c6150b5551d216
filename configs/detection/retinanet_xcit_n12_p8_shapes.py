# RetinaNet small enough to train from scratch on a laptop: the embedded data set, narrow neck and head.
_base_ = ["../_base_/models/retinanet.py", "../_base_/boxes_shapes.py"]

width = 64
norm_cfg = dict(type="BN", momentum=0.02)  # batches of two: slow averages
model = dict(
    backbone=dict(variant="nano_12_p8", norm_cfg=norm_cfg),
    neck=dict(in_channels=[128] * 3, out_channels=width, num_outs=3, norm_cfg=norm_cfg),
    bbox_head=dict(
        num_classes=4,
        in_channels=width,
        feat_channels=width,
        stacked_convs=2,
        anchor_generator=dict(strides=[8, 16, 32]),
    ),
)
