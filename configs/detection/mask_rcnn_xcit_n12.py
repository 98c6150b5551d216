# Nobody published this one; the recipe is that of t12.
_base_ = "../_base_/mask_rcnn_3x_coco.py"
model = dict(
    backbone=dict(
        variant="nano_12_p16",
        init_cfg=dict(type="Pretrained", checkpoint="xcit://nano_12_p16_384_dist"),
    ),
    neck=dict(in_channels=[128] * 4),
)
