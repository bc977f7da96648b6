_base_ = './secvit_t_classifier_in1k.py'

model = dict(backbone=dict(arch='small', drop_path_rate=0.15))
