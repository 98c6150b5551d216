# RTMDet for 100 epochs of 128 images (4 processes of 32), as in MMDetection's rtmdet_l_swin_b_4xb32-100e_coco, with the
# optimizer of XCiT. The rate is that of XCiT's recipe for 128 images, rounded.
_base_ = "./mask_rcnn_3x.py"

epochs, rate = 100, 1e-3
# The head shares convolutions between levels.
optim_wrapper = dict(optimizer=dict(lr=rate), paramwise_cfg=dict(bypass_duplicate=True))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-5, by_epoch=False, begin=0, end=1000),
    dict(
        type="CosineAnnealingLR",
        eta_min=rate * 0.05,
        begin=epochs // 2,
        end=epochs,
        T_max=epochs // 2,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=epochs, val_interval=10, dynamic_intervals=[(epochs - 10, 1)])
auto_scale_lr = dict(base_batch_size=128)
