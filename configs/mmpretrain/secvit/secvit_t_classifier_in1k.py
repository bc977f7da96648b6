# SecViT-T on ImageNet-1k, 300 epochs at 224x224.
#
# Published: the classifier, AdamW 5e-4 * batch / 512, weight decay 0.05, warm-up of 5 epochs from 1e-6, cosine to 1e-5,
# mixup 0.8, CutMix 1, label smoothing 0.1, RandAugment 9 with deviation 0.5, random erasing 0.25, repeated
# augmentation, averaged weights (0.99996), drop path 0.1 / 0.15 / 0.4 / 0.5 for t / s / b / l.
# Ours: a batch of 1024, no weight decay on norms and biases, clipping at 35, and images that are resized to 256 before
# the central crop in evaluation.
_base_ = [
    '../_base_/models/classifier.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/schedule_300e.py',
    '../_base_/default_runtime.py',
]

custom_hooks = [*_base_.custom_hooks, dict(type='mmengine.EMAHook', momentum=4e-5, update_buffers=True)]
