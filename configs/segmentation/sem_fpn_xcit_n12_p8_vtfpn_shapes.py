_base_ = "./sem_fpn_xcit_n12_p8_shapes.py"
model = dict(neck=dict(type="VTFPN", token_channels=256))
