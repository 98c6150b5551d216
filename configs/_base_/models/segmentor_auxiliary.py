# A segmentor whose auxiliary head learns from an earlier level. A config names the level.
_base_ = "./segmentor.py"
model = dict(
    auxiliary_head=dict(
        type="FusedFCNHead",
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type="SyncBN"),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=0.4),
    ),
)
