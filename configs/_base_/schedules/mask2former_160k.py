# Mask2Former for 160,000 iterations of 16 images, as in MMSegmentation's config
# mask2former_r50_8xb2-160k_ade20k-512x512, in full precision.
_base_ = "./query_heads.py"

optim_wrapper = dict(type="OptimWrapper", clip_grad=dict(max_norm=0.01, norm_type=2))
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0, by_epoch=False, begin=0, end=160000)]
train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=160000, val_interval=5000)
