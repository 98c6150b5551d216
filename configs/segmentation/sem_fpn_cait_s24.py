# No figures were published for this one. The recipe is that of XCiT (sem_fpn_xcit_s24).
_base_ = "../_base_/sem_fpn_80k_ade20k.py"
model = dict(
    backbone=dict(
        type="TokenPyramid",
        variant="cait_s24_384",
        img_size=512,
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="xcit://cait_s24_384"),
    ),
    neck=dict(in_channels=[384] * 4, out_channels=384),
    decode_head=dict(in_channels=[384] * 4),
)
