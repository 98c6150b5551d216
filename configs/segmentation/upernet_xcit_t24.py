# Nobody published this one; the recipe is that of s24.
_base_ = "../_base_/upernet_160k_ade20k.py"
model = dict(
    backbone=dict(
        variant="tiny_24_p16",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="xcit://tiny_24_p16_384_dist"),
    ),
    decode_head=dict(in_channels=[192] * 4),
    auxiliary_head=dict(in_channels=192),
)
