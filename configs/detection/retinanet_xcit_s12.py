# No figures were published for this model: MMDetection's RetinaNet, with the images and the optimizer of XCiT's recipe.
_base_ = [
    "../_base_/models/retinanet.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/detection_1x.py",
    "../_base_/runtime_detection.py",
]
model = dict(
    backbone=dict(
        variant="small_12_p16",
        drop_path_rate=0.05,
        init_cfg=dict(type="Pretrained", checkpoint="xcit://small_12_p16_384_dist"),
    ),
    neck=dict(in_channels=[384] * 3),
)
