# Mask R-CNN on a tiny BEiT, from random weights, on the embedded data set.
_base_ = "../_base_/mask_rcnn_shapes.py"
model = dict(
    backbone=dict(
        type="TokenPyramid",
        variant="beit_base_patch16_224",
        img_size=128,
        model_options=dict(patch_size=8, embed_dim=128, depth=6, num_heads=4),
    ),
    neck=dict(in_channels=[128] * 4),
)
