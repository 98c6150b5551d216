# Starts from the weights that have not seen a label.
_base_ = "./upernet_beitv2_l.py"
model = dict(backbone=dict(init_cfg=dict(checkpoint="xcit://beitv2_large_patch16_224_pt1k")))
optim_wrapper = dict(optimizer=dict(lr=4e-5))
