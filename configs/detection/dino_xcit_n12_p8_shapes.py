# DINO small enough to train from scratch on a laptop: the embedded data set, few queries and layers. The decoder of
# MMDetection 3.3 has encodings of 256 channels only, so the head has its full width.
_base_ = ["../_base_/models/dino.py", "../_base_/boxes_shapes.py"]

feed_forward = dict(feedforward_channels=512)
model = dict(
    num_queries=20,
    backbone=dict(variant="nano_12_p8", norm_cfg=dict(type="BN", momentum=0.02)),  # batches of two: slow averages
    neck=dict(in_channels=[128] * 3),
    encoder=dict(num_layers=2, layer_cfg=dict(ffn_cfg=feed_forward)),
    decoder=dict(num_layers=3, layer_cfg=dict(ffn_cfg=feed_forward)),
    bbox_head=dict(num_classes=4),
    dn_cfg=dict(group_cfg=dict(num_dn_queries=40)),
    test_cfg=dict(max_per_img=20),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=1.0))
iterations = 600
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=iterations, eta_min=0),
]
train_cfg = dict(max_iters=iterations, val_interval=iterations // 2)
