_base_ = "../_base_/upernet_160k_ade20k.py"
model = dict(
    backbone=dict(
        variant="tiny_12_p16",
        init_cfg=dict(type="Pretrained", checkpoint="xcit://tiny_12_p16_384_dist"),
    ),
    decode_head=dict(in_channels=[192] * 4),
    auxiliary_head=dict(in_channels=192),
)
