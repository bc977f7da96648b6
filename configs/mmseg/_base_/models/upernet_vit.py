# UperNet on a plain ViT: the maps of four blocks, brought to 4, 2, 1 and 1/2 times their resolution.
_base_ = './upernet.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmsec.ViT',
        arch='base',
        img_size=512,
        out_indices=(3, 5, 7, 11),
        merging=dict(),  # nothing; for a trained model, too: --cfg-options model.backbone.merging.type=...
        drop_path_rate=0.1,
        out_norm=False,
    ),
    neck=dict(type='Feature2Pyramid', embed_dim=768, rescales=[4, 2, 1, 0.5], norm_cfg={{_base_.norm_cfg}}),
    decode_head=dict(in_channels=[768, 768, 768, 768]),
    auxiliary_head=dict(in_channels=768),
)
