# The settings that both segmentors share: preprocessing, backbone, and a test on complete images.
model = dict(
    type="FusedEncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
    ),
    backbone=dict(type="XCiT", norm_cfg=dict(type="SyncBN")),
    train_cfg=dict(),
    # model.test_cfg.mode=slide tests in overlapping windows instead; only that mode uses crop_size and stride.
    test_cfg=dict(mode="whole", crop_size=(512, 512), stride=(341, 341)),
)
