# What Mask2Former's heads of both hosts share; the parts are mmdetection's. Deformable attention over three maps, then
# 100 queries through nine layers.
width = 256
attention = dict(embed_dims=width, num_heads=8, dropout=0.0, batch_first=True)
mask2former_head = dict(
    type='Mask2FormerHead',
    in_channels=[64, 128, 256, 512],
    strides=[4, 8, 16, 32],
    feat_channels=width,
    out_channels=width,
    num_queries=100,
    num_transformer_feat_level=3,
    positional_encoding=dict(num_feats=width // 2, normalize=True),
    pixel_decoder=dict(
        type='mmdet.MSDeformAttnPixelDecoder',
        num_outs=3,
        norm_cfg=dict(type='GN', num_groups=32),
        act_cfg=dict(type='ReLU'),
        positional_encoding=dict(num_feats=width // 2, normalize=True),
        encoder=dict(
            num_layers=6,
            layer_cfg=dict(
                self_attn_cfg=dict(num_levels=3, num_points=4, **attention),
                ffn_cfg=dict(embed_dims=width, feedforward_channels=1024, ffn_drop=0.0),
            ),
        ),
    ),
    transformer_decoder=dict(
        num_layers=9,
        return_intermediate=True,
        layer_cfg=dict(
            self_attn_cfg=attention,
            cross_attn_cfg=attention,
            ffn_cfg=dict(embed_dims=width, feedforward_channels=2048, ffn_drop=0.0),
        ),
    ),
    loss_cls=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=False, loss_weight=2.0),
    loss_mask=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True, loss_weight=5.0),
    loss_dice=dict(type='mmdet.DiceLoss', use_sigmoid=True, activate=True, naive_dice=True, eps=1.0, loss_weight=5.0),
)
mask2former_train_cfg = dict(
    num_points=12544,
    oversample_ratio=3.0,
    importance_sample_ratio=0.75,
    assigner=dict(
        type='mmdet.HungarianAssigner',
        match_costs=[
            dict(type='mmdet.ClassificationCost', weight=2.0),
            dict(type='mmdet.CrossEntropyLossCost', weight=5.0, use_sigmoid=True),
            dict(type='mmdet.DiceCost', weight=5.0, pred_act=True, eps=1.0),
        ],
    ),
    sampler=dict(type='mmdet.MaskPseudoSampler'),
)
