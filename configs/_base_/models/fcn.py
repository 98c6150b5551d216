# FCN on an XCiT. The head reads the last block at stride 16. The auxiliary head reads an earlier block at stride 8. A
# leaf names the backbone's variant and, for the heads, its width.
_base_ = "./segmentor_auxiliary.py"
model = dict(
    backbone=dict(out_strides=(8, 16), out_indices=(7, 11)),
    decode_head=dict(
        type="FusedFCNHead",
        in_index=1,
        channels=512,
        num_convs=2,
        concat_input=True,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type="SyncBN"),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(in_index=0),
)
