_base_ = "../_base_/upernet_beit_640.py"
model = dict(
    backbone=dict(
        variant="beit_base_patch16_224",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="xcit://beit_base_patch16_224_pt22k_ft22k"),
    ),
    decode_head=dict(in_channels=[768] * 4, channels=768),
    auxiliary_head=dict(in_channels=768),
)
optim_wrapper = dict(optimizer=dict(lr=3e-5), paramwise_cfg=dict(layer_decay=0.9))
