# UperNet with ViT-B from MAE's weights, 160k iterations on crops of 512x512.
#
# Published (arXiv 2111.06377, as in mmsegmentation's config of MAE): maps of blocks 3, 5, 7 and 11 without a last norm,
# AdamW 1e-4, which decays by 0.65 a block, weight decay 0.05 but for biases, norms, positions and class token, drop
# path 0.1, warm-up of 1500 iterations, poly decay of power 1, batch 16.
# Different: attention has no relative positions and blocks no layer scale, the head is 512 wide instead of 768, and a
# test image is taken whole.
_base_ = [
    '../_base_/models/upernet_vit.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/schedule_160k.py',
    '../_base_/default_runtime.py',
]

model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='checkpoints/mae_pretrain_vit_base.pth')))
optim_wrapper = dict(
    constructor='mmsec.LayerDecayOptimizerConstructor',
    optimizer=dict(lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(
        decay_rate=0.65,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys={'pos_embed': dict(decay_mult=0.0), 'cls_token': dict(decay_mult=0.0)},
    ),
)
