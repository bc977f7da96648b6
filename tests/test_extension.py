"""A new method is one file and a config: the grouping of docs/groupings.md and a backbone, thrown away again."""

import pytest
import torch

from mmsec.models.checkpoints.reading import read_checkpoint
from tests.conftest import SEGMENTER, SMALL_ARCH, run_here, small_run
from tests.test_docs import example

BACKBONE = f'''
from torch import nn

from mmsec.models.backbones.base import Backbone
from mmsec.models.layers.cluster_counts import ClusterCount
from mmsec.models.layers.secvit import LePEAttention
from mmsec.ops import rotary_table
from mmsec.registry import MODELS


@MODELS.register_module()
class Patches(Backbone):
    """A convolution and an attention layer at each stage."""

    arch_zoo = {{'one': dict(embed_dims={SMALL_ARCH['embed_dims']})}}

    def __init__(self, arch='one', grouping=dict(type='WindowGrouping'), in_channels=3, out_indices=(0, 1, 2, 3),
                 frozen_stages=-1, norm_eval=False, init_cfg=None):
        dims = self.settings(arch, ['embed_dims'])['embed_dims']
        super().__init__(in_channels, (4, 8, 16, 32), out_indices, frozen_stages, norm_eval, init_cfg)
        before = (in_channels, *dims)
        self.convs = nn.ModuleList(nn.Conv2d(*before[i:i + 2], 7, 2 if i else 4, 3) for i in range(len(dims)))
        self.attention = nn.ModuleList(LePEAttention(width, 2, grouping, 0, ClusterCount(4)) for width in dims)
        self.finish(dims, out_norm=True)

    def parts(self):
        return [[], *(list(each) for each in zip(self.convs, self.attention))]

    def maps(self, x):
        maps = {{}}
        for i, (conv, attention) in enumerate(zip(self.convs, self.attention)):
            x = conv(x)
            height, width = x.shape[2:]
            table = rotary_table(height, width, x.shape[1] // 2, x.dtype, x.device)
            x = attention(x.permute(0, 2, 3, 1), table).permute(0, 3, 1, 2)
            maps[i] = x
        return maps
'''


SOURCES = {'value_length': example('docs/groupings.md', '# value_length.py'), 'patches': BACKBONE}


@pytest.mark.usefixtures('registered')
@pytest.mark.parametrize(
    ('module', 'backbone'),
    [
        ('value_length', dict(grouping=dict(type='ValueLengthGrouping'))),
        ('patches', dict(_delete_=True, type='mmsec.Patches', grouping=dict(type='SemanticGrouping'))),
    ],
)
def test_a_new_method_trains_and_is_drawn(shapes, tmp_path, monkeypatch, module, backbone):
    base = small_run(SEGMENTER, shapes, tmp_path, **{'train_cfg.max_iters': 1, 'train_cfg.val_interval': 1})
    (tmp_path / f'{module}.py').write_text(SOURCES[module])
    imports = ['mmsec.models', 'mmsec.engine', 'mmsec.datasets', module]
    config = tmp_path / 'new.py'
    config.write_text(
        f'_base_ = {base.name!r}\n'
        f'custom_imports = dict(imports={imports}, allow_failed_imports=False)\n'
        f'model = dict(backbone={backbone})\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    run_here('train.py', config, '--work-dir', tmp_path / 'work')
    state = read_checkpoint(tmp_path / 'work/iter_1.pth')['state_dict']
    assert all(value.isfinite().all() for value in state.values() if torch.is_floating_point(value))
    assert ('backbone.convs.0.weight' in state) == (module == 'patches')
    assert len(list((tmp_path / 'work').glob('*/vis_data/vis_image/clusters_*.png'))) == 2
