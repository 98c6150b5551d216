# No figures were published for this model. The recipe is that of MMDetection's DINO, with the optimizer of XCiT.
_base_ = [
    "../_base_/models/dino.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/dino_12e.py",
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
train_dataloader = dict(dataset=dict(filter_cfg=dict(filter_empty_gt=False)))
