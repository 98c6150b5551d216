# UperNet small enough to train from scratch on a laptop: the embedded data set, narrow heads.
_base_ = [
    "../_base_/models/upernet.py",
    "../_base_/datasets/shapes_semantic.py",
    "../_base_/schedules/shapes.py",
    "../_base_/runtime_segmentation.py",
]
model = dict(
    data_preprocessor=dict(size=(144, 144)),
    backbone=dict(variant="nano_12_p8"),
    decode_head=dict(in_channels=[128] * 4, channels=64, num_classes=5),
    auxiliary_head=dict(in_channels=128, channels=64, num_classes=5),
)
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=240))
