# Mask R-CNN with ViT-B by the recipe of ViTDet (arXiv 2203.16527), from MAE's weights.
# As published: windows of 14x14 with four global blocks, no class token, the simple feature pyramid, LayerNorm and four
# convolutions in the heads, two in the RPN, jitter at 1024x1024, 100 epochs, AdamW 1e-4 at batch 64, weight decay 0.1
# but for norms and positions, a rate that decays by 0.7 a block, drop path 0.1.
# Different: attention has no relative positions.
_base_ = [
    '../_base_/models/mask_rcnn.py',
    '../_base_/datasets/coco_instance_lsj.py',
    '../_base_/schedules/schedule_100e.py',
    '../_base_/default_runtime.py',
]

norm_cfg = dict(type='mmsec.LayerNorm2d', eps=1e-6)
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmsec.ViT',
        arch='base',
        img_size=1024,
        with_cls_token=False,
        window_size=14,
        merging=dict(),  # nothing; for a trained model, too: --cfg-options model.backbone.merging.type=...
        drop_path_rate=0.1,
        out_norm=False,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/mae_pretrain_vit_base.pth'),
    ),
    neck=dict(_delete_=True, type='mmsec.SimpleFeaturePyramid', in_channels=768, out_channels=256, num_outs=5),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)
optim_wrapper = dict(
    constructor='mmsec.LayerDecayOptimizerConstructor',
    optimizer=dict(weight_decay=0.1),
    paramwise_cfg=dict(decay_rate=0.7, custom_keys={'pos_embed': dict(decay_mult=0.0)}),
)
