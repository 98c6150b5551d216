# Mask R-CNN small enough to train from scratch on a laptop: the embedded data set, narrow neck and heads. A leaf names
# the backbone and, for the neck, its width.
_base_ = ["./models/mask_rcnn.py", "./instance_shapes.py"]

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
