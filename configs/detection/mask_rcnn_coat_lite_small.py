_base_ = "../_base_/mask_rcnn_coat_3x_coco.py"
model = dict(
    backbone=dict(
        variant="coat_lite_small",
        init_cfg=dict(type="Pretrained", checkpoint="xcit://coat_lite_small"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
