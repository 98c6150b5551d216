# UperNet on the four levels of an XCiT. A leaf names the backbone's variant and, for the heads, its width.
# FusedUPerHead has the parameters and the outputs of UPerHead, and is faster.
_base_ = "./segmentor_auxiliary.py"
model = dict(
    decode_head=dict(
        type="FusedUPerHead",
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=512,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type="SyncBN"),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(in_index=2),
)
