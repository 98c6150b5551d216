# COCO 2017 as RTMDet is trained: images of 640 pixels, each a mosaic of four images mixed with another mosaic. In the
# last epochs, a hook of the schedule exchanges the pipeline for plain_pipeline, without mosaics.
_base_ = "./coco_detection.py"

size, grey = (640, 640), (114, 114, 114)
load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True)]
pad = dict(type="Pad", size=size, pad_val=dict(img=grey))
crop_and_colour = [
    dict(type="RandomCrop", crop_size=size),
    dict(type="YOLOXHSVRandomAug"),
    dict(type="RandomFlip", prob=0.5),
    pad,
]
train_pipeline = [
    *load,
    dict(type="CachedMosaic", img_scale=size, pad_val=114.0),
    dict(type="RandomResize", scale=(1280, 1280), ratio_range=(0.1, 2.0), keep_ratio=True),
    *crop_and_colour,
    dict(type="CachedMixUp", img_scale=size, ratio_range=(1.0, 1.0), max_cached_images=20, pad_val=grey),
    dict(type="PackDetInputs"),
]
plain_pipeline = [
    *load,
    dict(type="RandomResize", scale=size, ratio_range=(0.1, 2.0), keep_ratio=True),
    *crop_and_colour,
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=size, keep_ratio=True),
    pad,
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale=(side, side), keep_ratio=True) for side in (640, 320, 960)],
            _base_.tta_pipeline[1].transforms[1],  # flips, before the padding
            [dict(type="Pad", size=(960, 960), pad_val=dict(img=grey))],
            *_base_.tta_pipeline[1].transforms[2:],
        ],
    ),
]
tta_model = dict(iou_threshold=0.6)
train_dataloader = dict(batch_size=32, num_workers=10, batch_sampler=None, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(proposal_nums=(100, 1, 10))
test_evaluator = val_evaluator
