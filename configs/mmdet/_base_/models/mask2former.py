# Mask2Former for instances. Batches are padded to 1024x1024, as large-scale jitter crops them.
_base_ = ['./secvit.py', '../../../_base_/models/mask2former_head.py']

no_object = 0.1  # weight of the last class
model = dict(
    type='Mask2Former',
    data_preprocessor=dict(
        pad_size_divisor=32,
        pad_mask=True,
        batch_augments=[dict(type='BatchFixedSizePad', size=(1024, 1024), pad_mask=True)],
    ),
    panoptic_head=dict(
        _base_.mask2former_head,
        num_things_classes=80,
        num_stuff_classes=0,
        loss_cls=dict(_base_.mask2former_head.loss_cls, class_weight=[1.0] * 80 + [no_object]),
    ),
    panoptic_fusion_head=dict(type='MaskFormerFusionHead', num_things_classes=80, num_stuff_classes=0),
    train_cfg=_base_.mask2former_train_cfg,
    test_cfg=dict(panoptic_on=False, semantic_on=False, instance_on=True, max_per_image=100),
)
