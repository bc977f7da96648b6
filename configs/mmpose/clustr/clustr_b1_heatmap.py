# Top-down heatmaps with ClusTR-b1 on COCO's keypoints, 210 epochs at 256x192.
_base_ = '../secvit/secvit_t_heatmap.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmsec.ClusTR',
        arch='b1',
        out_indices=(3,),
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/clustr_b1.pth'),
    ),
)
