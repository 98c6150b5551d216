# DeepLabV3+ on an XCiT. The head reads the last block at stride 16, and an early block at stride 4 for details. The
# auxiliary head reads a block between at stride 8. A leaf names the backbone's variant and, for the heads, its width.
_base_ = "./segmentor_auxiliary.py"
model = dict(
    backbone=dict(out_strides=(4, 8, 16), out_indices=(3, 7, 11)),
    decode_head=dict(
        type="DepthwiseSeparableASPPHead",
        in_index=2,
        channels=512,
        dilations=(1, 6, 12, 18),  # of the paper, for stride 16
        c1_channels=48,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type="SyncBN"),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(in_index=1),
)
