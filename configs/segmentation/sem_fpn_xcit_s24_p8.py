_base_ = "../_base_/sem_fpn_80k_ade20k.py"
model = dict(
    backbone=dict(
        variant="small_24_p8",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="xcit://small_24_p8_384_dist"),
    ),
    neck=dict(in_channels=[384] * 4, out_channels=384),
    decode_head=dict(in_channels=[384] * 4),
)
