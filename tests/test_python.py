"""What one does in Python without a host: names at the top of mmsec, and the code of docs/python.md."""

import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import mmsec
from mmsec import ViT, create_model, list_models, load_image, models, token_clusters, visualize_clusters
from mmsec.errors import InputError
from mmsec.models.backbones.base import Backbone
from mmsec.visualization.clusters import cluster_maps, cluster_sheet
from tests.conftest import DATA, ROOT, SMALL_ARCH, SMALL_CLUSTR, SMALL_SWIN
from tests.test_imports import run

PHOTO = DATA / 'nuclei/val/23830d0e51245fc0.jpg'
BLOCK = re.compile(r'^```python\n(.*?)^```', re.MULTILINE | re.DOTALL)


def test_the_page_runs_and_prints_what_it_says(tmp_path, monkeypatch, capsys):
    (tmp_path / 'checkpoints').mkdir()
    torch.save(models.SecViT('tiny').state_dict(), tmp_path / 'checkpoints/secvit_tiny.pth')
    shutil.copy(PHOTO, tmp_path / 'photo.jpg')
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall((ROOT / 'docs/python.md').read_text())
    assert len(blocks) > 5
    names: dict = {}
    for block in blocks:
        exec(block, names)
        said = re.findall(r'^(?:.*  )?# (.*)$', block, re.MULTILINE)
        printed = [line for line in capsys.readouterr().out.splitlines() if ' - mmengine - ' not in line]  # no log
        assert printed == said, block
    assert Image.open('clusters.png').width == 1200


def test_importing_mmsec_imports_neither_torch_nor_mmengine_and_every_name_is_there():
    heavy = "{'torch', 'mmengine', 'numpy', 'matplotlib'} & {*sys.modules}"
    assert run(f'import mmsec\nprint({heavy}, {{*mmsec.__all__}} <= {{*dir(mmsec)}})') == 'set() True\n'
    for name in mmsec.__all__:
        assert getattr(mmsec, name) is not None
    assert mmsec.SecViT is models.SecViT
    with pytest.raises(AttributeError, match="module 'mmsec' has no attribute 'SecVit'"):
        mmsec.SecVit  # noqa: B018 (that it raises)


def test_every_size_of_every_backbone_has_a_name_and_is_built_by_it():
    kinds = [each for each in vars(models).values() if isinstance(each, type) and issubclass(each, Backbone)]
    assert len(list_models()) == sum(len(kind.arch_zoo) for kind in kinds)
    assert list_models('clustr*') == ['clustr_b1', 'clustr_b2', 'clustr_b3']
    assert list_models('*dinov3_7b') == ['vit_dinov3_7b']
    assert list_models('resnet*') == []
    with torch.device('meta'):
        vit = create_model('vit_dinov3_small_plus', out_indices=[2, 5], pretrained=False)
    assert isinstance(vit, ViT)
    assert vit.out_channels == [384, 384]


@pytest.mark.parametrize(
    ('build', 'kind', 'message'),
    [
        (lambda: create_model('secvit_smal'), ValueError, "no model 'secvit_smal': did you mean 'secvit_small'"),
        (lambda: create_model('ViT-DINOv3-small'), ValueError, "did you mean 'vit_dinov3_small'"),
        (lambda: create_model('resnet50'), ValueError, r"no model 'resnet50': .*mmsec\.list_models\(\) has all names"),
        (lambda: create_model('secvit_tiny', clusters=3), TypeError, "unexpected keyword argument 'clusters'"),
        (lambda: mmsec.SecViT('Smal'), ValueError, r"\['base', 'large', 'small', 'tiny'\] .*did you mean 'small'"),
        (lambda: mmsec.SecViT(3), ValueError, 'arch must be one of .*, got 3'),
        (lambda: mmsec.ClusTR('b4'), ValueError, "did you mean 'b"),
        (lambda: mmsec.ViT('dinov3_base'), ValueError, "did you mean 'dinov3-base'"),
        (lambda: mmsec.ClusteredSwin('tiny'), ValueError, "backbone must be a dict.*, got 'tiny'"),
        (lambda: mmsec.SecViT('tiny', pretrained=True), InputError, 'Published weights: .*qhfan/SecViT'),
    ],
)
def test_what_is_not_there_is_one_line_with_names_that_are_near(build, kind, message):
    with pytest.raises(kind, match=message) as error:
        build()
    assert '\n' not in str(error.value)


def test_an_image_is_the_same_from_a_file_pillow_and_an_array(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(9, 13, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    wanted = torch.tensor((pixels[4, 5] - np.array([123.675, 116.28, 103.53])) / [58.395, 57.12, 57.375]).float()
    for image in (str(tmp_path / 'a.png'), tmp_path / 'a.png', Image.open(tmp_path / 'a.png'), pixels):
        x = load_image(image)
        assert x.shape == (1, 3, 9, 13)
        torch.testing.assert_close(x[0, :, 4, 5], wanted)
    assert load_image(Image.fromarray(pixels[..., 0])).shape == (1, 3, 9, 13)  # grey
    for image in (tmp_path / 'absent.png', tmp_path, pixels[..., 0], pixels.astype(float), torch.zeros(1), None):
        with pytest.raises(InputError, match=r'expected|is not an image'):
            load_image(image)


@pytest.mark.parametrize(
    'backbone',
    [
        lambda: mmsec.SecViT(SMALL_ARCH, out_indices=(1,)),
        lambda: mmsec.ClusTR(SMALL_CLUSTR),
        lambda: mmsec.ViT('tiny', out_indices=(2,), grouping=dict(type='WindowGrouping'), num_clusters=4),
        lambda: mmsec.ClusteredSwin(dict(type='mmdet.SwinTransformer', **SMALL_SWIN)),
    ],
)
def test_clusters_of_all_stages_are_seen_and_drawn(backbone):
    backbone, x = backbone(), load_image(PHOTO)
    stages = len(backbone.attention_layers())
    assert len(token_clusters(backbone, x)) == stages
    wanted = cluster_sheet(np.asarray(Image.open(PHOTO)), cluster_maps(backbone, x, range(stages)))
    assert np.array_equal(np.asarray(visualize_clusters(backbone, x)), wanted)
    with pytest.raises(ValueError, match=r'expected one image \(1, 3, H, W\)'):
        visualize_clusters(backbone, x.expand(2, -1, -1, -1))
