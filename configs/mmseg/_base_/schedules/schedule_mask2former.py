# 160k iterations in batches of 16 without a warm-up, a tenth of the rate for the backbone, gradients clipped at 0.01.
_base_ = './schedule_160k.py'

param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, begin=0, end=160000, by_epoch=False)]
not_decayed = dict(decay_mult=0.0)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(
        custom_keys=dict(
            backbone=dict(lr_mult=0.1), query_embed=not_decayed, query_feat=not_decayed, level_embed=not_decayed
        )
    ),
    clip_grad=dict(max_norm=0.01),
)
