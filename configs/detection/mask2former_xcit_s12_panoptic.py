# No figures were published for this model. The recipe is that of MMDetection's Mask2Former, with the optimizer of XCiT.
_base_ = [
    "../_base_/models/mask2former_panoptic.py",
    "../_base_/datasets/coco_panoptic_lsj.py",
    "../_base_/schedules/mask2former_50e.py",
    "../_base_/runtime_detection.py",
]
model = dict(
    backbone=dict(
        variant="small_12_p16",
        drop_path_rate=0.05,
        init_cfg=dict(type="Pretrained", checkpoint="xcit://small_12_p16_384_dist"),
    ),
    panoptic_head=dict(in_channels=[384] * 4),
)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=5000))
log_processor = dict(by_epoch=False)
