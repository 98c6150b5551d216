_base_ = "../_base_/upernet_beit_512.py"
model = dict(
    backbone=dict(
        variant="beitv2_large_patch16_224",
        model_options=dict(init_values=1e-6),
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="xcit://beitv2_large_patch16_224_pt1k_ft21k"),
    ),
    decode_head=dict(in_channels=[1024] * 4, channels=1024),
    auxiliary_head=dict(in_channels=1024),
)
optim_wrapper = dict(optimizer=dict(lr=3e-5), paramwise_cfg=dict(layer_decay=0.9))
