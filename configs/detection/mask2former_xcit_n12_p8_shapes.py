# Mask2Former small enough to train from scratch on a laptop: the embedded data set, a narrow head with few queries.
_base_ = ["../_base_/models/mask2former.py", "../_base_/instance_shapes.py"]

width, things = 64, 4
attention = dict(embed_dims=width, num_heads=4)
model = dict(
    data_preprocessor=dict(pad_size_divisor=32, batch_augments=None),
    backbone=dict(variant="nano_12_p8", norm_cfg=dict(type="BN", momentum=0.02)),  # batches of two: slow averages
    panoptic_head=dict(
        in_channels=[128] * 4,
        feat_channels=width,
        out_channels=width,
        num_things_classes=things,
        num_queries=20,
        pixel_decoder=dict(
            norm_cfg=dict(num_groups=8),
            encoder=dict(
                num_layers=2,
                layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=dict(embed_dims=width, feedforward_channels=2 * width)),
            ),
            positional_encoding=dict(num_feats=width // 2),
        ),
        positional_encoding=dict(num_feats=width // 2),
        transformer_decoder=dict(
            num_layers=3,
            layer_cfg=dict(
                self_attn_cfg=attention,
                cross_attn_cfg=attention,
                ffn_cfg=dict(embed_dims=width, feedforward_channels=4 * width),
            ),
        ),
        loss_cls=dict(class_weight=[1.0] * things + [0.1]),
    ),
    panoptic_fusion_head=dict(num_things_classes=things),
    train_cfg=dict(num_points=1024),
    test_cfg=dict(max_per_image=20),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=1.0))
iterations = 480
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=iterations, eta_min=0),
]
train_cfg = dict(max_iters=iterations, val_interval=iterations // 2)
