# Nobody published this one; the recipe is that of m24.
_base_ = "../_base_/sem_fpn_80k_ade20k.py"
model = dict(
    backbone=dict(
        variant="large_24_p16",
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="xcit://large_24_p16_384_dist"),
    ),
    neck=dict(in_channels=[768] * 4, out_channels=768),
    decode_head=dict(in_channels=[768] * 4),
)
