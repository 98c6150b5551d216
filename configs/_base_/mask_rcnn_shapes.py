# Mask R-CNN small enough to train from scratch on a laptop: the embedded data set, narrow neck and heads. A leaf names
# the backbone and, for the neck, its width.
_base_ = [
    "./models/mask_rcnn.py",
    "./datasets/shapes_instance.py",
    "./schedules/shapes.py",
    "./runtime_detection.py",
]

width, classes = 64, 4
norm_cfg = dict(type="BN", momentum=0.02)  # batches of two: slow averages
model = dict(
    data_preprocessor=dict(pad_size_divisor=1),
    backbone=dict(norm_cfg=norm_cfg),
    neck=dict(out_channels=width, num_outs=4, norm_cfg=norm_cfg),
    rpn_head=dict(
        in_channels=width,
        feat_channels=width,
        anchor_generator=dict(scales=[5], strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width, finest_scale=28, roi_layer=dict(sampling_ratio=2)),
        bbox_head=dict(in_channels=width, fc_out_channels=256, num_classes=classes, reg_class_agnostic=True),
        mask_roi_extractor=dict(out_channels=width, finest_scale=28, roi_layer=dict(sampling_ratio=2)),
        mask_head=dict(
            num_convs=2,
            in_channels=width,
            conv_out_channels=width,
            num_classes=classes,
            class_agnostic=True,
            norm_cfg=norm_cfg,
        ),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=500, max_per_img=200), rcnn=dict(sampler=dict(num=32, pos_fraction=0.5))),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)),
)
# Boxes and masks are learnt sooner than label maps.
iterations = 360
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=iterations, eta_min=0),
]
train_cfg = dict(max_iters=iterations, val_interval=iterations // 2)
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(by_epoch=False, interval=iterations // 2),
    visualization=dict(score_thr=0.5),
)
log_processor = dict(by_epoch=False)
train_dataloader = dict(sampler=dict(type="InfiniteSampler"))
