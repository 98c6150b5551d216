_base_ = "../_base_/cascade_mask_rcnn_coat_3x_coco.py"
model = dict(
    backbone=dict(
        variant="coat_small",
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="xcit://coat_small"),
    ),
    neck=dict(in_channels=[152, 320, 320, 320]),
)
