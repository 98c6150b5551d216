# UperNet on BEiT, crops of 640 pixels. The decoder is as wide as the backbone. Tests slide a window of the crop's size.
_base_ = [
    "./models/upernet.py",
    "./datasets/ade20k_640.py",
    "./schedules/beit_160k.py",
    "./runtime_segmentation.py",
]
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(type="TokenPyramid", img_size=640),
    test_cfg=dict(mode="slide", crop_size=(640, 640), stride=(426, 426)),
)
