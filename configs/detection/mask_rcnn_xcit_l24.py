# Nobody published this one; the recipe is that of m24.
_base_ = "../_base_/mask_rcnn_3x_coco.py"
model = dict(
    backbone=dict(
        variant="large_24_p16",
        drop_path_rate=0.15,
        init_cfg=dict(type="Pretrained", checkpoint="xcit://large_24_p16_384_dist"),
    ),
    neck=dict(in_channels=[768] * 4),
)
