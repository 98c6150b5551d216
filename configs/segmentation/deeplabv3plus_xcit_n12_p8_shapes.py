# DeepLabV3+ small enough to train from scratch on a laptop: the embedded data set, narrow heads.
_base_ = [
    "../_base_/models/deeplabv3plus.py",
    "../_base_/datasets/shapes_semantic.py",
    "../_base_/schedules/shapes.py",
    "../_base_/runtime_segmentation.py",
]
norm_cfg = dict(type="BN", momentum=0.02)  # batches of two: slow averages
head = dict(in_channels=128, channels=64, num_classes=5, dropout_ratio=0.0, norm_cfg=norm_cfg)
model = dict(
    data_preprocessor=dict(size=(112, 112)),
    backbone=dict(variant="nano_12_p8", norm_cfg=norm_cfg),
    decode_head=dict(**head, c1_in_channels=128, c1_channels=32, dilations=(1, 2, 3, 4)),  # maps of 7 x 7
    auxiliary_head=head,
)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=350))
