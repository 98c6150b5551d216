# No figures were published for this one. The recipe is that of XCiT (mask_rcnn_xcit_t24).
_base_ = "../_base_/mask_rcnn_3x_coco.py"
model = dict(
    backbone=dict(
        type="TokenPyramid",
        variant="cait_xxs24_384",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="xcit://cait_xxs24_384"),
    ),
    neck=dict(in_channels=[192] * 4),
)
