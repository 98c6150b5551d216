# UperNet on BEiT, crops of 512 pixels. The decoder is as wide as the backbone. Tests slide a window of the crop's size.
_base_ = [
    "./models/upernet.py",
    "./datasets/ade20k.py",
    "./schedules/beit_160k.py",
    "./runtime_segmentation.py",
]
model = dict(backbone=dict(type="TokenPyramid", img_size=512), test_cfg=dict(mode="slide"))
