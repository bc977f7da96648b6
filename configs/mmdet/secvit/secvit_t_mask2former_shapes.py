# The demo with Mask2Former: SecViT-T on generated shapes (tools/make_shapes.py), from random weights, on a CPU. Fewer
# layers and queries than for COCO, because images are small and hold four shapes at most.
_base_ = ['./secvit_t_maskrcnn_shapes.py', '../../_base_/models/mask2former_head.py']

head = _base_.mask2former_head
model = dict(
    _delete_=True,
    type='Mask2Former',
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=_base_.model.backbone,
    panoptic_head=dict(
        head,
        num_things_classes=4,
        num_stuff_classes=0,
        num_queries=20,
        pixel_decoder=dict(head.pixel_decoder, encoder=dict(head.pixel_decoder.encoder, num_layers=2)),
        transformer_decoder=dict(head.transformer_decoder, num_layers=3),
        loss_cls=dict(head.loss_cls, class_weight=[1.0, 1.0, 1.0, 1.0, 0.1]),
    ),
    panoptic_fusion_head=dict(type='MaskFormerFusionHead', num_things_classes=4, num_stuff_classes=0),
    train_cfg=dict(_base_.mask2former_train_cfg, num_points=1024),
    test_cfg=dict(panoptic_on=False, semantic_on=False, instance_on=True, max_per_image=20),
)
optim_wrapper = dict(optimizer=dict(lr=5e-4), clip_grad=dict(max_norm=0.1))
