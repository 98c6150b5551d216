# COCO 2017 as in coco_instance.py, for detectors that do not predict masks.
_base_ = "./coco_instance.py"

boxes_only = dict(type="LoadAnnotations", with_bbox=True)
train_pipeline = [boxes_only if step.type == "LoadAnnotations" else step for step in _base_.train_pipeline]
test_pipeline = [boxes_only if step.type == "LoadAnnotations" else step for step in _base_.test_pipeline]
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [boxes_only] if steps[0].type == "LoadAnnotations" else steps for steps in _base_.tta_pipeline[1].transforms
        ],
    ),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(metric="bbox")
test_evaluator = val_evaluator
