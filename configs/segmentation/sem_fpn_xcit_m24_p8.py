_base_ = "../_base_/sem_fpn_80k_ade20k.py"
model = dict(
    backbone=dict(
        variant="medium_24_p8",
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="xcit://medium_24_p8_384_dist"),
    ),
    neck=dict(in_channels=[512] * 4, out_channels=512),
    decode_head=dict(in_channels=[512] * 4),
)
