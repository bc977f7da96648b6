# secvit_t_upernet_camvid.py with ClusTR-b1.
_base_ = '../../../configs/mmseg/secvit_t_upernet_camvid.py'

model = dict(backbone=dict(_delete_=True, type='mmsec.ClusTR', arch='b1', region_size=3136, drop_path_rate=0.0))
