# Nobody published this one; the recipe is that of s24_p8.
_base_ = "../_base_/mask_rcnn_3x_coco.py"
model = dict(
    backbone=dict(
        variant="tiny_24_p8",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="xcit://tiny_24_p8_384_dist"),
    ),
    neck=dict(in_channels=[192] * 4),
)
