# The demo with ClusTR-b1: Mask R-CNN on generated shapes (tools/make_shapes.py), from random weights, on a CPU.
_base_ = '../secvit/secvit_t_maskrcnn_shapes.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmsec.ClusTR',
        arch='b1',
        region_size=3136,
        drop_path_rate=0.0,
        init_cfg=_base_.model.backbone.init_cfg,
    ),
)
