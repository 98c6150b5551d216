# The published config has patch_size 8. Its name, figures and weights are for 16.
_base_ = "../_base_/mask_rcnn_3x_coco.py"
model = dict(
    backbone=dict(
        variant="medium_24_p16",
        drop_path_rate=0.15,
        init_cfg=dict(type="Pretrained", checkpoint="xcit://medium_24_p16_384_dist"),
    ),
    neck=dict(in_channels=[512] * 4),
)
