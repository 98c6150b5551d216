# No figures were published for this model. The recipe is that of XCiT with UperNet. As in MMSegmentation's SegFormer,
# the head learns at ten times the rate.
_base_ = [
    "../_base_/models/segformer.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/segmentation_160k.py",
    "../_base_/runtime_segmentation.py",
]
model = dict(
    backbone=dict(
        variant="small_12_p16",
        drop_path_rate=0.05,
        init_cfg=dict(type="Pretrained", checkpoint="xcit://small_12_p16_384_dist"),
    ),
    decode_head=dict(in_channels=[384] * 4),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=10.0))))
