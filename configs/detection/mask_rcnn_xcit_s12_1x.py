# The 1x schedule; for another variant, change the first line of its config alike.
_base_ = "../_base_/mask_rcnn_1x_coco.py"
model = dict(
    backbone=dict(
        variant="small_12_p16",
        drop_path_rate=0.05,
        init_cfg=dict(type="Pretrained", checkpoint="xcit://small_12_p16_384_dist"),
    ),
    neck=dict(in_channels=[384] * 4),
)
