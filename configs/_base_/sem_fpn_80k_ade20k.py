_base_ = [
    "./models/sem_fpn.py",
    "./datasets/ade20k.py",
    "./schedules/segmentation_80k.py",
    "./runtime_segmentation.py",
]
