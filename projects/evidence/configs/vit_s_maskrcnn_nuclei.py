# secvit_t_maskrcnn_nuclei.py with a plain ViT-S, patches of 16 pixels, and the pyramid of its last map.
_base_ = '../../../configs/mmdet/secvit_t_maskrcnn_nuclei.py'

model = dict(
    # No merging; a trained model can be tested with it: --cfg-options model.backbone.merging.type=...
    backbone=dict(_delete_=True, type='mmsec.ViT', arch='small', img_size=192, merging=dict(), drop_path_rate=0.0),
    neck=dict(_delete_=True, type='mmsec.SimpleFeaturePyramid', in_channels=384, out_channels=64, num_outs=5),
)
