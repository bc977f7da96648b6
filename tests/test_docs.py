"""What the pages say: their links, paths and names are there, and their examples run."""

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmsec import engine, models, ops, registry
from mmsec.datasets import SkipBroken
from mmsec.models.inspection import token_clusters
from mmsec.models.layers.maps import LayerScale
from mmsec.version import __version__
from tests.conftest import ROOT, SMALL_ARCH

PAGES = sorted(
    {*ROOT.glob('*.md'), *ROOT.glob('docs/*.md'), *ROOT.glob('configs/**/*.md'), *ROOT.glob('projects/**/*.md')}
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
NOW = [name for name in NAMES if name != 'CHANGELOG.md']  # which names what was, too
MADE_BY_READERS = {
    'mmsec/ops/grouping/value_length.py',
    'mmsec/models/backbones/strided.py',
    'mmsec/ops/kernels/addcmul.py',
}
REGISTRIES = [each for each in vars(registry).values() if isinstance(each, registry.Registry)]


def example(page: str, first_line: str) -> str:
    """The Python block of a page that starts with a line."""
    blocks = re.findall(r'^```python\n(.*?)^```', (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if block.startswith(first_line)]
    return found


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of headings."""
    headings = re.findall(r'^#+ (.*)$', page.read_text(), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('name', NAMES)
def test_links_lead_somewhere(name):
    page = ROOT / name
    links = re.findall(r'\]\(([^)\s]+)\)', page.read_text())
    for link in links:
        if link.startswith(('http://', 'https://')):
            continue
        path, _, anchor = link.partition('#')
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_pages_and_sections_that_the_code_names_are_there():
    for file in (*ROOT.glob('mmsec/**/*.py'), *ROOT.glob('tools/**/*.py')):
        for page, section in re.findall(r'\b(README|(?:docs/|configs/)?\w+\.md)\b(?:, "([^"]+)")?', file.read_text()):
            path = ROOT / (page if page.endswith('.md') else f'{page}.md')
            assert '/' not in page or path.is_file(), (file, page)
            assert not section or section in re.findall(r'^#+ (.*)$', path.read_text(), re.MULTILINE), (file, section)


@pytest.mark.parametrize('name', NOW)
def test_paths_are_there(name):
    text = (ROOT / name).read_text()
    paths = set(
        re.findall(r'(?<![\w/.])((?:mmsec|tools|configs|docs|tests|requirements|projects)/[\w./-]+\.\w+)', text)
    )
    assert {path for path in paths - MADE_BY_READERS if not (ROOT / path).exists()} == set()


def is_there(name: str) -> bool:
    """Whether a dotted name of mmsec is a module, something in one, or a registered type."""
    _, first, *rest = name.split('.')
    if not rest and first[0].isupper():
        return any(first in each.module_dict for each in REGISTRIES)
    found = importlib.import_module('mmsec')
    for part in (first, *rest):
        if isinstance(found, ModuleType) and not hasattr(found, part):
            try:
                importlib.import_module(f'{found.__name__}.{part}')
            except ModuleNotFoundError:
                return False
        found = getattr(found, part, None)
    return found is not None


@pytest.mark.parametrize('name', NOW)
def test_names_of_mmsec_are_there(name):
    assert (engine, models, SkipBroken) is not None  # registered by their import
    found = set(re.findall(r'(?<![\w/.])mmsec(?:\.[A-Za-z_]\w*)+(?!\.py)', (ROOT / name).read_text()))
    assert {each for each in found - {'mmsec.Strided'} if not is_there(each)} == set()


@pytest.mark.usefixtures('registered')
def test_the_grouping_of_the_page_is_one_file_and_a_name():
    exec(example('docs/groupings.md', '# value_length.py'), {'__name__': 'value_length'})
    backbone = models.SecViT(SMALL_ARCH, grouping=dict(type='ValueLengthGrouping')).eval()
    images = torch.randn(2, 3, 64, 96)
    (clusters,) = token_clusters(backbone, images, [1])
    assert clusters.score_name == 'length of the value'
    lowest = [clusters.scores[clusters.ids == cluster].amin() for cluster in range(8)]
    assert torch.stack(lowest).isfinite().all()
    one_head = clusters.ids[0, 0].flatten()[clusters.scores[0, 0].flatten().argsort()]
    assert torch.equal(one_head, one_head.sort().values)  # clusters stand in the order of the score
    backbone(images)[0].sum().backward()


def test_a_stage_of_secvit_merges_by_the_hooks_of_the_page():
    names: dict = {}
    exec(example('docs/token_merging.md', '# merged_stage.py'), names)
    backbone = models.SecViT(SMALL_ARCH, drop_path_rate=0.0)
    images, grids = torch.randn(2, 3, 256, 160), []
    plain = [m.shape for m in backbone(images)]
    names['merge_stage'](backbone.stages[2])
    backbone.stages[2].blocks[0].register_forward_hook(lambda block, args, x: grids.append(x.shape[1:3]))
    maps = backbone(images)
    assert [m.shape for m in maps] == plain
    assert grids == [(12, 8)]  # of 16 x 10
    maps[3].square().sum().backward()
    assert all(p.grad is not None for p in backbone.parameters() if p.ndim == 4)


@pytest.mark.usefixtures('registered')
def test_the_grouping_of_the_readme_works_as_it_stands():
    exec(example('README.md', 'from mmsec.ops.grouping import'), {'__name__': 'of_the_readme'})
    backbone = models.SecViT(SMALL_ARCH, grouping=dict(type='ValueLengthGrouping'))
    backbone(torch.randn(2, 3, 64, 96))[0].sum().backward()


def test_the_own_config_of_the_page_is_the_one_that_ships():
    shipped = (ROOT / 'configs/mmseg/secvit/secvit_t_upernet_custom.py').read_text()
    assert example('docs/get_started.md', "_base_ = './secvit_t_upernet.py'") in shipped


@pytest.mark.usefixtures('registered')
@pytest.mark.parametrize('size', [(64, 96), (37, 53), (1, 1)])
def test_the_backbone_of_contributing_is_one_file_and_a_config(size):
    exec(example('CONTRIBUTING.md', '# mmsec/models/backbones/strided.py'), {'__name__': 'strided'})
    config = example('CONTRIBUTING.md', "_base_ = './secvit_t_maskrcnn.py'")
    whole = config.replace('./', f'{ROOT}/configs/mmdet/')
    cfg = Config.fromstring(whole, '.py')
    backbone = registry.MODELS.build(cfg.model.backbone)
    maps = backbone(torch.randn(2, 3, *size))
    assert [m.shape[1:] for m in maps] == [
        (channels, -(-size[0] // stride), -(-size[1] // stride))
        for channels, stride in zip(cfg.model.neck.in_channels, backbone.strides, strict=True)
    ]
    sum((m * torch.randn_like(m)).sum() for m in maps).backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_the_kernel_of_contributing_computes_what_plain_torch_does():
    names: dict = {'__name__': 'addmm'}
    exec(example('CONTRIBUTING.md', '# mmsec/ops/kernels/addcmul.py'), names)
    kernel = names['RESIDUAL_AS_ADDCMUL']
    x, branch = torch.randn(2, 2, 5, 7, 8).requires_grad_()
    layers = LayerScale(8, 0.5).eval(), nn.Identity().eval()
    assert kernel.why_not(x, branch, *layers) is None
    assert kernel.why_not(x, branch, nn.Identity(), nn.Identity()) == 'there is no layer scale'
    assert kernel.why_not(x, branch, LayerScale(8), nn.Identity()) == 'drop path may drop'
    with ops.plain_torch():
        wanted = ops.residual(x, branch, *layers)
    found = kernel.run(x, branch, *layers)
    torch.testing.assert_close(found, wanted)
    inputs, grad = [x, branch, layers[0].gamma], torch.randn_like(wanted)
    torch.testing.assert_close(torch.autograd.grad(found, inputs, grad), torch.autograd.grad(wanted, inputs, grad))


def test_the_changelog_has_the_version():
    headings = re.findall(r'^## (\S+?),? ', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    assert headings[0] == __version__
