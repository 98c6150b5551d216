_base_ = "../_base_/mask_rcnn_3x_coco.py"
model = dict(
    backbone=dict(
        variant="tiny_12_p16",
        init_cfg=dict(type="Pretrained", checkpoint="xcit://tiny_12_p16_384_dist"),
    ),
    neck=dict(in_channels=[192] * 4),
)
