# Mask2Former for 50 epochs of COCO in iterations, as in MMDetection's config mask2former_r50_8xb2-lsj-50e_coco.
_base_ = "./query_heads.py"

iterations = 368750
optim_wrapper = dict(clip_grad=dict(max_norm=0.01, norm_type=2))
param_scheduler = [
    dict(type="MultiStepLR", by_epoch=False, begin=0, end=iterations, milestones=[327778, 355092], gamma=0.1)
]
train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=iterations, val_interval=5000)
