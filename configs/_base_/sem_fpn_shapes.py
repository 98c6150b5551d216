# Semantic FPN small enough to train from scratch on a laptop: the embedded data set, narrow neck and head. A leaf names
# the backbone and, for the neck, its width.
_base_ = [
    "./models/sem_fpn.py",
    "./datasets/shapes_semantic.py",
    "./schedules/shapes.py",
    "./runtime_segmentation.py",
]
norm_cfg = dict(type="BN", momentum=0.02)  # batches of two: slow averages
model = dict(
    data_preprocessor=dict(size=(112, 112)),
    backbone=dict(norm_cfg=norm_cfg),
    neck=dict(out_channels=64, norm_cfg=norm_cfg),
    decode_head=dict(in_channels=[64] * 4, channels=64, num_classes=5, dropout_ratio=0.0, norm_cfg=norm_cfg),
)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=350))
