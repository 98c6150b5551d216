# DINO for 12 epochs, as in MMDetection's config dino-4scale_r50_8xb2-12e_coco.
_base_ = "./query_heads.py"

optim_wrapper = dict(clip_grad=dict(max_norm=0.1, norm_type=2))
param_scheduler = [dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[11], gamma=0.1)]
train_cfg = dict(max_epochs=12)
