# Mask R-CNN on CoaT.
_base_ = [
    "./models/mask_rcnn.py",
    "./datasets/coco_instance.py",
    "./schedules/coat_3x.py",
    "./runtime_detection.py",
]
model = dict(backbone=dict(_delete_=True, type="CoaT"))
