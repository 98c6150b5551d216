# No figures were published for this model. The recipe is that of MMSegmentation's Mask2Former, with the optimizer of
# XCiT.
_base_ = [
    "../_base_/models/mask2former_semantic.py",
    "../_base_/datasets/ade20k_mask2former.py",
    "../_base_/schedules/mask2former_160k.py",
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
custom_imports = dict(imports=["xcit_dense.mm", "mmdet.models"])
