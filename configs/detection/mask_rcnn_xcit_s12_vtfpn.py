# Nobody published this model: the recipe of mask_rcnn_xcit_s12, with the neck VT-FPN in place of the FPN.
_base_ = "./mask_rcnn_xcit_s12.py"
model = dict(neck=dict(type="VTFPN"))
