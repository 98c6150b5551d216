_base_ = "../_base_/mask_rcnn_coat_3x_coco.py"
model = dict(
    backbone=dict(
        variant="coat_mini",
        init_cfg=dict(type="Pretrained", checkpoint="xcit://coat_mini"),
    ),
    neck=dict(in_channels=[152, 216, 216, 216]),
)
