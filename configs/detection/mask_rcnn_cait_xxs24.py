# No figures were published for this one. The recipe is that of XCiT (mask_rcnn_xcit_t24). CaiT keeps several attention
# maps of each block for the backward pass, 270 MiB each at 800 x 1344 pixels, so with_cp recomputes them.
_base_ = "../_base_/mask_rcnn_3x_coco.py"
model = dict(
    backbone=dict(
        type="TokenPyramid",
        variant="cait_xxs24_384",
        drop_path_rate=0.1,
        with_cp=True,
        init_cfg=dict(type="Pretrained", checkpoint="xcit://cait_xxs24_384"),
    ),
    neck=dict(in_channels=[192] * 4),
)
