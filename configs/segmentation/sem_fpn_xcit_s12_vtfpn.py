# Nobody published this model: the recipe of sem_fpn_xcit_s12, with the neck VT-FPN in place of the FPN.
_base_ = "./sem_fpn_xcit_s12.py"
model = dict(neck=dict(type="VTFPN"))
