# Mask2Former for panoptic segmentation, small enough to train from scratch on a laptop. The shapes are things, and the
# background is stuff.
_base_ = "./mask2former_xcit_n12_p8_shapes.py"

things, stuff = 4, 1
model = dict(
    data_preprocessor=dict(pad_seg=True, seg_pad_value=255),
    panoptic_head=dict(num_stuff_classes=stuff, loss_cls=dict(class_weight=[1.0] * (things + stuff) + [0.1])),
    panoptic_fusion_head=dict(num_stuff_classes=stuff),
    test_cfg=dict(panoptic_on=True),
)

segments = dict(type="LoadPanopticAnnotations")
train_pipeline = [segments if step.type == "LoadAnnotations" else step for step in _base_.train_pipeline]
test_pipeline = [segments if step.type == "LoadAnnotations" else step for step in _base_.test_pipeline]
tta_pipeline = None  # panoptic predictions cannot be merged
tta_model = None
metainfo = dict(
    classes=("circle", "square", "triangle", "star", "background"),
    thing_classes=("circle", "square", "triangle", "star"),
    stuff_classes=("background",),
    palette=[(230, 85, 70), (70, 150, 230), (80, 190, 100), (245, 190, 50), (90, 90, 90)],
)
train_dataloader = dict(
    dataset=dict(
        type="CocoPanopticDataset",
        ann_file="annotations/panoptic_train2017.json",
        data_prefix=dict(img="train2017/", seg="annotations/panoptic_train2017/"),
        metainfo=metainfo,
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        type="CocoPanopticDataset",
        ann_file="annotations/panoptic_val2017.json",
        data_prefix=dict(img="val2017/", seg="annotations/panoptic_val2017/"),
        metainfo=metainfo,
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(
        type="CocoPanopticMetric",
        ann_file=_base_.data_root + "annotations/panoptic_val2017.json",
        seg_prefix=_base_.data_root + "annotations/panoptic_val2017/",
    ),
    _base_.val_evaluator,
]
test_evaluator = val_evaluator
