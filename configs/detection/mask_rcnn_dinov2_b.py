# No figures were published for this one. The recipe is that of XCiT, with the drop path and the layer decay of ViTDet-B
# (Li et al. 2022).
_base_ = "../_base_/mask_rcnn_3x_coco.py"
model = dict(
    backbone=dict(
        type="TokenPyramid",
        variant="vit_base_patch14_dinov2",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="timm://vit_base_patch14_dinov2.lvd142m"),
    ),
    neck=dict(in_channels=[768] * 4),
)
optim_wrapper = dict(constructor="XCiTLayerDecay", paramwise_cfg=dict(layer_decay=0.7))
