# Nobody published this one; the recipe is that of m24_p8.
_base_ = "../_base_/mask_rcnn_3x_coco.py"
model = dict(
    backbone=dict(
        variant="large_24_p8",
        drop_path_rate=0.15,
        init_cfg=dict(type="Pretrained", checkpoint="xcit://large_24_p8_384_dist"),
    ),
    neck=dict(in_channels=[768] * 4),
)
