# What each detector on the embedded data set shares: the data, a short schedule, and the hooks. Boxes and masks are
# learnt sooner than label maps.
_base_ = ["./datasets/shapes_instance.py", "./schedules/shapes.py", "./runtime_detection.py"]

iterations = 360
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=iterations, eta_min=0),
]
train_cfg = dict(max_iters=iterations, val_interval=iterations // 2)
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(by_epoch=False, interval=iterations // 2),
    visualization=dict(score_thr=0.5),
)
log_processor = dict(by_epoch=False)
train_dataloader = dict(sampler=dict(type="InfiniteSampler"))
