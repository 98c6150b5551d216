# Starts from the weights that have not seen a label.
_base_ = "./upernet_beitv2_b.py"
model = dict(backbone=dict(init_cfg=dict(checkpoint="xcit://beitv2_base_patch16_224_pt1k")))
optim_wrapper = dict(paramwise_cfg=dict(layer_decay=0.75))
