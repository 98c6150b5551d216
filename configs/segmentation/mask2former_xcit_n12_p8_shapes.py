# Mask2Former small enough to train from scratch on a laptop: the embedded data set, a narrow head with few queries.
_base_ = [
    "../_base_/models/mask2former_semantic.py",
    "../_base_/datasets/shapes_semantic.py",
    "../_base_/schedules/shapes.py",
    "../_base_/runtime_segmentation.py",
]
width, classes = 64, 5
attention = dict(embed_dims=width, num_heads=4)
model = dict(
    data_preprocessor=dict(size=(112, 112)),
    backbone=dict(variant="nano_12_p8", norm_cfg=dict(type="BN", momentum=0.02)),  # batches of two: slow averages
    decode_head=dict(
        in_channels=[128] * 4,
        feat_channels=width,
        out_channels=width,
        num_classes=classes,
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
        loss_cls=dict(class_weight=[1.0] * classes + [0.1]),
        train_cfg=dict(num_points=1024),
    ),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=1.0))
custom_imports = dict(imports=["xcit_dense.mm", "mmdet.models"])
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=350))
