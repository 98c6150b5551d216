# No figures were published for this one. The recipe is that of BEiT v2 (upernet_beitv2_b).
_base_ = "../_base_/upernet_beit_512.py"
model = dict(
    backbone=dict(
        variant="vit_base_patch14_dinov2",
        drop_path_rate=0.15,
        init_cfg=dict(type="Pretrained", checkpoint="timm://vit_base_patch14_dinov2.lvd142m"),
    ),
    decode_head=dict(in_channels=[768] * 4, channels=768),
    auxiliary_head=dict(in_channels=768),
)
optim_wrapper = dict(optimizer=dict(lr=5e-5), paramwise_cfg=dict(layer_decay=0.85))
