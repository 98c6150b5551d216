# The published detection recipe: AdamW for 36 epochs of 16 images (8 processes of 2), in mixed precision.
optim_wrapper = dict(
    type="AutoAmpOptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    # Only layer norms do not have weight decay.
    paramwise_cfg=dict(custom_keys={"norm": dict(decay_mult=0.0)}),
)
param_scheduler = [
    # MMEngine reaches the full rate one step before `end`; as published, it is reached at step 500.
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=501),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1),
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=36, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
auto_scale_lr = dict(enable=False, base_batch_size=16)
