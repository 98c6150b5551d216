_base_ = [
    "./models/mask_rcnn.py",
    "./datasets/coco_instance.py",
    "./schedules/mask_rcnn_1x.py",
    "./runtime_detection.py",
]
