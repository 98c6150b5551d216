# No figures were published for this model: the recipe of mask_rcnn_xcit_s12, with the heads of Cascade Mask R-CNN.
_base_ = [
    "../_base_/models/cascade_mask_rcnn.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/schedules/mask_rcnn_3x.py",
    "../_base_/runtime_detection.py",
]
model = dict(
    backbone=dict(
        variant="small_12_p16",
        drop_path_rate=0.05,
        init_cfg=dict(type="Pretrained", checkpoint="xcit://small_12_p16_384_dist"),
    ),
    neck=dict(in_channels=[384] * 4),
)
