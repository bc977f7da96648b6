_base_ = [
    '../_base_/models/mask2former_semantic.py',
    '../_base_/datasets/ade20k_640.py',
    '../_base_/schedules/schedule_mask2former.py',
    '../_base_/default_runtime.py',
]

custom_imports = dict(imports=[*_base_.custom_imports.imports, 'mmdet.models'])
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(arch='base', drop_path_rate=0.4, init_cfg=dict(checkpoint='checkpoints/secvit_base.pth')),
    decode_head=dict(in_channels=[80, 160, 320, 512]),
)
