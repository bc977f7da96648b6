_base_ = './vit_s_classifier_in1k.py'

model = dict(backbone=dict(arch='base'), head=dict(in_channels=768))
