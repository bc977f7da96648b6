# ViT-S on ImageNet-1k, 300 epochs at 224x224, by the recipe of DeiT (arXiv 2012.12877), which is that of
# secvit_t_classifier_in1k.py. The class token is classified, so that files of timm and DeiT can be evaluated.
_base_ = '../secvit/secvit_t_classifier_in1k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmsec.ViT',
        arch='small',
        merging=dict(),  # nothing; for a trained model, too: --cfg-options model.backbone.merging.type=...
        out_type='cls_token',
        drop_path_rate=0.1,
    ),
    neck=dict(_delete_=True, type='GlobalAveragePooling'),  # of the map that the class token is: one place
    head=dict(in_channels=384),
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'pos_embed': dict(decay_mult=0.0), 'cls_token': dict(decay_mult=0.0)}),
)
