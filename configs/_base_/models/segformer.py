# The all-MLP head of SegFormer on the four levels of an XCiT. A leaf names the backbone's variant and, for the head,
# its width. FusedSegformerHead has the parameters and the outputs of SegformerHead, and is faster.
_base_ = "./segmentor.py"
model = dict(
    decode_head=dict(
        type="FusedSegformerHead",
        in_index=[0, 1, 2, 3],
        channels=256,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type="SyncBN"),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    )
)
