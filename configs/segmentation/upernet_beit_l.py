# 320,000 iterations of 8 images. Every second iteration updates the weights, so there are 160,000 updates of 16 images.
_base_ = "../_base_/upernet_beit_640.py"
model = dict(
    backbone=dict(
        variant="beit_large_patch16_224",
        model_options=dict(init_values=1e-6),
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="xcit://beit_large_patch16_224_pt22k_ft22k"),
    ),
    decode_head=dict(in_channels=[1024] * 4, channels=1024),
    auxiliary_head=dict(in_channels=1024),
)
optim_wrapper = dict(accumulative_counts=2, optimizer=dict(lr=2e-5), paramwise_cfg=dict(layer_decay=0.95))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=3001),
    dict(type="PolyLR", power=1.0, eta_min=0.0, by_epoch=False, begin=0, end=320001),
]
train_cfg = dict(max_iters=320000, val_interval=32000)
train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(base_batch_size=8)
