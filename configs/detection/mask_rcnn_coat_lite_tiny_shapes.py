# Mask R-CNN on the smallest CoaT, from random weights, on the embedded data set.
_base_ = "../_base_/mask_rcnn_shapes.py"
model = dict(
    backbone=dict(_delete_=True, type="CoaT", variant="coat_lite_tiny"), neck=dict(in_channels=[64, 128, 256, 320])
)
