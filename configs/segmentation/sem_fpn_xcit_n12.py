# Nobody published this one; the recipe is that of t12.
_base_ = "../_base_/sem_fpn_80k_ade20k.py"
model = dict(
    backbone=dict(
        variant="nano_12_p16",
        init_cfg=dict(type="Pretrained", checkpoint="xcit://nano_12_p16_384_dist"),
    ),
    neck=dict(in_channels=[128] * 4, out_channels=128),
    decode_head=dict(in_channels=[128] * 4),
)
