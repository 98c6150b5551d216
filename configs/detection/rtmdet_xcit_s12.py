# No figures were published for this model. The recipe is that of MMDetection's RTMDet, with the optimizer of XCiT.
_base_ = [
    "../_base_/models/rtmdet.py",
    "../_base_/datasets/coco_mosaic.py",
    "../_base_/schedules/rtmdet_100e.py",
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
default_hooks = dict(checkpoint=dict(interval=10))
custom_hooks = [
    *_base_.custom_hooks,
    dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.0002, update_buffers=True, priority=49),
    dict(type="PipelineSwitchHook", switch_epoch=90, switch_pipeline=_base_.plain_pipeline),
]
