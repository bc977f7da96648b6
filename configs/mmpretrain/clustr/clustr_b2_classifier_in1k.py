_base_ = './clustr_b1_classifier_in1k.py'

model = dict(backbone=dict(arch='b2', drop_path_rate=0.1))
