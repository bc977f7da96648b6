# ClusTR-b1 on ImageNet-1k, 300 epochs at 224x224.
#
# Published: the sizes, the classifier (the mean over the last map, a linear layer), and drop path 0.1 / 0.1 / 0.3 for
# b1 / b2 / b3. Ours: the rest, which is the recipe of secvit_t_classifier_in1k.py, so that backbones can be compared.
_base_ = '../secvit/secvit_t_classifier_in1k.py'

model = dict(
    backbone=dict(_delete_=True, type='mmsec.ClusTR', arch='b1', drop_path_rate=0.1, out_indices=(3,)),
    neck=dict(_delete_=True, type='GlobalAveragePooling'),
    head=dict(in_channels=512),
)
