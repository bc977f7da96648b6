"""What train.py writes, all tools read, whatever a config has in the places of ours; and other ways to write one."""

import re
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS
from mmengine.runner import find_latest_checkpoint

from mmsec.models.checkpoints import reading
from tests.conftest import OFFICIAL, SEGMENTER, SMALL_ARCH, error_here, run_here, small_run

QUICK = {'train_cfg.max_iters': 2, 'train_cfg.val_interval': 9}


@HOOKS.register_module()
class LeavesObjects(Hook):
    """A user's hook that keeps what is no plain value, and is called after all others."""

    priority = 'LOWEST'

    def before_save_checkpoint(self, runner, checkpoint):
        own = {
            'array': np.arange(3),
            'number': np.longdouble(1.5),
            'path': Path('a'),
            'history': HistoryBuffer([1.0], [1]),
        }
        checkpoint['meta']['own'] = own | {'object': self}
        runner.message_hub.update_info('object', re.compile('a'))


def test_what_a_config_without_our_hooks_writes_is_read_by_all_tools(shapes, tmp_path):
    config = small_run(SEGMENTER, shapes, tmp_path, **QUICK)
    with config.open('a') as file:
        file.write(
            "custom_hooks = [dict(type='mmengine.LeavesObjects'), dict(type='mmengine.EMAHook')]\n"
            "default_hooks['checkpoint'] = dict(type='CheckpointHook', by_epoch=False, interval=1)\n"
            "param_scheduler = [dict(type='OneCycleLR', eta_max=1e-3, total_steps=9, by_epoch=False)]\n"
        )
    work = tmp_path / 'work'
    printed = run_here('train.py', config, '--work-dir', work).stdout
    assert re.search(r'has not the hooks of .*half a checkpoint \(mmsec\.AtomicCheckpointHook\).*NaNGuardHook', printed)
    assert len(re.findall(r'leave out .*meta\.own\.object \(LeavesObjects\)', printed)) == 1
    written = torch.load(work / 'iter_2.pth', weights_only=True)
    assert written['meta']['own'] == dict(
        array=[0, 1, 2], number=1.5, path='a', history={'values': [1.0], 'counts': [1]}
    )
    longer = ['--resume', 'auto', '--cfg-options', 'train_cfg.max_iters=4']
    printed = run_here('train.py', config, '--work-dir', work, *longer).stdout
    assert 'is not HistoryBuffer' not in printed
    assert re.search(r'resumed epoch: 0, iter: 2[\s\S]* Iter\(train\) \[4/4\].* loss: [\d.]+', printed)
    image = tmp_path / 'image.png'
    cv2.imwrite(str(image), np.zeros((40, 40, 3), np.uint8))
    checkpoint = find_latest_checkpoint(str(work))
    run_here('test.py', config, checkpoint, '--work-dir', work)
    run_here('infer.py', image, config, checkpoint, '--out', tmp_path / 'out', '--device', 'cpu')
    run_here('model_converters/convert_checkpoint.py', checkpoint, tmp_path / 'backbone.pth')


def test_a_checkpoint_of_stock_mmengine_is_resumed_and_each_file_is_read_once(shapes, tmp_path, monkeypatch):
    published = dict(type='Pretrained', checkpoint=str(OFFICIAL), _delete_=True)
    config = small_run(SEGMENTER, shapes, tmp_path, **QUICK, **{'model.backbone.init_cfg': published})
    work = tmp_path / 'work'
    run_here('train.py', config, '--work-dir', work)
    path = work / 'iter_2.pth'
    checkpoint = torch.load(path, weights_only=True)
    scalars = checkpoint['message_hub']['log_scalars']
    scalars.update({name: HistoryBuffer(*history.values()) for name, history in scalars.items()})
    checkpoint['message_hub']['runtime_info']['eta'] = np.float64(1)
    torch.save(checkpoint, path)
    reads = []
    load = reading._load
    monkeypatch.setattr(reading, '_load', lambda name, size: reads.append(name) or load(name, size))
    longer = ['--resume', 'auto', '--cfg-options', 'train_cfg.max_iters=3']
    printed = run_here('train.py', config, '--work-dir', work, *longer).stdout
    assert re.search(r'resumed epoch: 0, iter: 2[\s\S]* Iter\(train\) \[3/3\]', printed)
    assert 'is not HistoryBuffer' not in printed
    assert sorted(reads) == sorted([str(OFFICIAL), str(path)])


PURE = """
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import InfiniteSampler
from mmengine.model import PretrainedInit
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop
from mmseg.datasets import BaseSegDataset, LoadAnnotations, PackSegInputs
from mmseg.models import EncoderDecoder, FCNHead, SegDataPreProcessor
from torch.optim import AdamW

from mmsec.models import SecViT

default_scope = 'mmseg'
model = dict(
    type=EncoderDecoder,
    data_preprocessor=dict(type=SegDataPreProcessor, size=(64, 64), pad_val=0, seg_pad_val=255),
    backbone=dict(type=SecViT, arch={arch}, init_cfg=dict(type=PretrainedInit, checkpoint='{checkpoint}')),
    decode_head=dict(type=FCNHead, in_channels=96, in_index=3, channels=8, num_convs=1, num_classes=5,
                     loss_decode=dict(type='CrossEntropyLoss')),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
pipeline = [dict(type=LoadImageFromFile), dict(type=LoadAnnotations, reduce_zero_label=True), dict(type=PackSegInputs)]
train_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type=InfiniteSampler), dataset=dict(
    type=BaseSegDataset, img_suffix='.jpg', seg_map_suffix='.png', reduce_zero_label=True, data_root='{root}',
    metainfo=dict(classes=('a', 'b', 'c', 'd', 'e')), pipeline=pipeline,
    data_prefix=dict(img_path='images/training', seg_map_path='annotations/training')))
train_cfg = dict(type=IterBasedTrainLoop, max_iters=1)
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-4))
"""


def test_a_config_in_pure_python_loads_weights(shapes, tmp_path):
    config = tmp_path / 'pure.py'
    config.write_text(PURE.format(arch=SMALL_ARCH, checkpoint=OFFICIAL, root=shapes / 'ade'))
    printed = run_here('train.py', config, '--work-dir', tmp_path / 'work').stdout
    assert re.search(rf'SecViT: loaded \d+ weights from {OFFICIAL}', printed)
    assert re.search(r'Saving checkpoint at', printed)
    config.write_text(PURE.format(arch=SMALL_ARCH, checkpoint=tmp_path / 'absent.pth', root=shapes / 'ade'))
    assert 'https://github.com/qhfan/SecViT' in error_here('train.py', config, '--work-dir', tmp_path / 'work')
