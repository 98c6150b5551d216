# Nobody published this one; the recipe is that of t12.
_base_ = "../_base_/upernet_160k_ade20k.py"
model = dict(
    backbone=dict(
        variant="nano_12_p16",
        init_cfg=dict(type="Pretrained", checkpoint="xcit://nano_12_p16_384_dist"),
    ),
    decode_head=dict(in_channels=[128] * 4),
    auxiliary_head=dict(in_channels=128),
)
