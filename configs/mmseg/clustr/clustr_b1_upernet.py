# UperNet with ClusTR-b1, 160k iterations on crops of 512x512.
#
# Published: the backbone's sizes, and drop path 0.1 / 0.1 / 0.3 for b1 / b2 / b3, which is that of ImageNet training.
# Ours: the segmenter, its data and its schedule, which are those of secvit_t_upernet.py, so that backbones can be
# compared. Also ours is region_size: 3136 tokens are all of stage 1 at 224x224. None would cluster whole maps, as
# published, at a cost that grows with the square of the area. We know of no segmentation settings by the authors.
_base_ = '../secvit/secvit_t_upernet.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmsec.ClusTR',
        arch='b1',
        region_size=3136,
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/clustr_b1.pth'),
    ),
)
