_base_ = "../_base_/upernet_160k_ade20k.py"
model = dict(
    backbone=dict(
        variant="medium_24_p16",
        drop_path_rate=0.15,
        init_cfg=dict(type="Pretrained", checkpoint="xcit://medium_24_p16_384_dist"),
    ),
    decode_head=dict(in_channels=[512] * 4),
    auxiliary_head=dict(in_channels=512),
)
