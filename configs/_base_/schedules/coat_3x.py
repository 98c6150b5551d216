# The published recipe of CoaT's detectors: that of XCiT, but every parameter has weight decay.
_base_ = "./mask_rcnn_3x.py"
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True))
