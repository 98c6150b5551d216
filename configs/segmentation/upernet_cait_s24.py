# No figures were published for this one. The recipe is that of XCiT (upernet_xcit_s24).
_base_ = "../_base_/upernet_160k_ade20k.py"
model = dict(
    backbone=dict(
        type="TokenPyramid",
        variant="cait_s24_384",
        img_size=512,
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="xcit://cait_s24_384"),
    ),
    decode_head=dict(in_channels=[384] * 4),
    auxiliary_head=dict(in_channels=384),
)
