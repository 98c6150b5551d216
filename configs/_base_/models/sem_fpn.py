# Semantic FPN on the four levels of an XCiT. A leaf names the backbone's variant and, for the neck and head, its width.
_base_ = "./segmentor.py"
model = dict(
    neck=dict(type="FPN", num_outs=4),
    decode_head=dict(
        type="FusedFPNHead",
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=128,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type="SyncBN"),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
)
