# RTMDet small enough to train from scratch on a laptop: the embedded data set, narrow neck and head.
_base_ = ["../_base_/models/rtmdet.py", "../_base_/boxes_shapes.py"]

width = 64
norm_cfg = dict(num_groups=8)
model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(variant="nano_12_p8", norm_cfg=dict(type="BN", momentum=0.02)),  # batches of two: slow averages
    neck=dict(in_channels=[128] * 3, out_channels=width, num_csp_blocks=1, norm_cfg=norm_cfg),
    bbox_head=dict(num_classes=4, in_channels=width, feat_channels=width, norm_cfg=norm_cfg),
)
optim_wrapper = dict(
    optimizer=dict(lr=2e-3),
    paramwise_cfg=dict(bypass_duplicate=True),  # the head shares convolutions between levels
)
iterations = 900
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=iterations, eta_min=0),
]
train_cfg = dict(max_iters=iterations, val_interval=iterations // 2)
