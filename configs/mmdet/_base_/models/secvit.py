# Input and backbone of all detectors.
model = dict(
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(
        type='mmsec.SecViT',
        arch='tiny',
        drop_path_rate=0.1,
        norm_eval=True,  # 2 images a GPU are too few to estimate BatchNorm's statistics
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/secvit_tiny.pth'),
    ),
)
