# The published segmentation recipe at half the length.
_base_ = "./segmentation_160k.py"
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1501),
    dict(type="PolyLR", power=1.0, eta_min=0.0, by_epoch=False, begin=0, end=80001),
]
train_cfg = dict(max_iters=80000, val_interval=8000)
