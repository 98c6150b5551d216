# FCN small enough to train from scratch on a laptop: the embedded data set, narrow heads. The head reads stride 8.
_base_ = [
    "../_base_/models/fcn.py",
    "../_base_/datasets/shapes_semantic.py",
    "../_base_/schedules/shapes.py",
    "../_base_/runtime_segmentation.py",
]
norm_cfg = dict(type="BN", momentum=0.02)  # batches of two: slow averages
head = dict(in_channels=128, channels=64, num_classes=5, dropout_ratio=0.0, norm_cfg=norm_cfg)
model = dict(
    data_preprocessor=dict(size=(112, 112)),
    backbone=dict(variant="nano_12_p8", out_strides=(4, 8), norm_cfg=norm_cfg),
    decode_head=head,
    auxiliary_head=head,
)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=350))
