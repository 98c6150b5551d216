_base_ = [
    "./models/upernet.py",
    "./datasets/ade20k.py",
    "./schedules/segmentation_160k.py",
    "./runtime_segmentation.py",
]
