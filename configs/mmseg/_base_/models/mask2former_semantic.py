# Mask2Former for semantic segmentation on UperNet's input and backbone.
_base_ = ['./upernet.py', '../../../_base_/models/mask2former_head.py']

no_object = 0.1  # weight of the last class
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=32)),
    decode_head=dict(
        _base_.mask2former_head,
        _delete_=True,
        num_classes=150,
        align_corners=False,
        loss_cls=dict(_base_.mask2former_head.loss_cls, class_weight=[1.0] * 150 + [no_object]),
        train_cfg=_base_.mask2former_train_cfg,
    ),
    auxiliary_head=None,
)
