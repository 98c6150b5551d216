# The published recipe of BEiT's segmentors: mixed precision, and learning rates that decrease with the depth of a
# layer. A leaf names the rate and the decay.
_base_ = "./segmentation_160k.py"
optim_wrapper = dict(
    type="AutoAmpOptimWrapper",
    constructor="XCiTLayerDecay",
    optimizer=dict(weight_decay=0.05),
    # One-dimensional parameters do not have weight decay. Tables of relative positions and class tokens do.
    paramwise_cfg=dict(_delete_=True, norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)
