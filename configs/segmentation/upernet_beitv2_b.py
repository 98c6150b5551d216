_base_ = "../_base_/upernet_beit_512.py"
model = dict(
    backbone=dict(
        variant="beitv2_base_patch16_224",
        model_options=dict(init_values=0.1),
        drop_path_rate=0.15,
        init_cfg=dict(type="Pretrained", checkpoint="xcit://beitv2_base_patch16_224_pt1k_ft21k"),
    ),
    decode_head=dict(in_channels=[768] * 4, channels=768),
    auxiliary_head=dict(in_channels=768),
)
optim_wrapper = dict(optimizer=dict(lr=5e-5), paramwise_cfg=dict(layer_decay=0.85))
