# Mask2Former for panoptic segmentation: as mask2former.py, with the classes of stuff. The numbers are those of
# MMDetection's config mask2former_r50_8xb2-lsj-50e_coco-panoptic.
_base_ = "./mask2former.py"

stuff = 53
model = dict(
    data_preprocessor=dict(
        pad_seg=True,
        seg_pad_value=255,
        batch_augments=[
            dict(
                type="BatchFixedSizePad",
                size=(1024, 1024),
                img_pad_value=0,
                pad_mask=True,
                mask_pad_value=0,
                pad_seg=True,
                seg_pad_value=255,
            )
        ],
    ),
    panoptic_head=dict(
        num_stuff_classes=stuff,
        loss_cls=dict(class_weight=[1.0] * (_base_.things + stuff) + [0.1]),
    ),
    panoptic_fusion_head=dict(num_stuff_classes=stuff),
    test_cfg=dict(panoptic_on=True),
)
