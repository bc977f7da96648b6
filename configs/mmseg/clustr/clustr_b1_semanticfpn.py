# Semantic FPN with ClusTR-b1, 80k iterations on crops of 512x512.
#
# Published: the backbone's sizes and drop path, see clustr_b1_upernet.py. 80k iterations in batches of 16, AdamW 1e-4,
# weight decay 1e-4 and poly decay of power 0.9 are those of PVT (arXiv 2102.12122), a pyramid like ClusTR's.
# Ours: the warm-up, no weight decay on norms, gradient clipping, and region_size, see clustr_b1_upernet.py. We know of
# no segmentation settings by the authors of ClusTR.
_base_ = '../secvit/secvit_t_semanticfpn.py'

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
