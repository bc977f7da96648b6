import cv2
import numpy as np
import pytest
import torch

from mmsec.cli.config import load_config
from mmsec.cli.explorer import MAX_SIDE, STRENGTHS, Explorer
from mmsec.cli.weights import config_of_backbone
from mmsec.models.inspection import token_clusters
from mmsec.ops.grouping import GROUPINGS
from mmsec.ops.merging import MERGINGS
from mmsec.registry import MODELS
from tests.conftest import DETECTOR, SEGMENTER, SMALL_ARCH, SMALL_CLUSTR, SMALL_VIT, small_checkpoint, small_run


@pytest.fixture
def path(tmp_path):
    path = tmp_path / 'image.png'
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    return path


def explorer(kind='SecViT', arch=SMALL_ARCH, **options):
    cfg = config_of_backbone(f'mmsec.{kind}', arch)
    cfg.model.backbone.update(options)
    return Explorer(cfg, None, 'cpu')


def test_the_model_stands_beside_each_grouping_on_the_same_tokens(path):
    one = explorer()
    assert one.title == 'SecViT, random weights'
    assert one.others == sorted(GROUPINGS)
    assert one.heads(1) == ['head 1', 'head 2']
    for name in one.others:
        model, other = one.look(path, 1, 1, 1, (0.2, 0.9), name, ('cluster_size', 20))
        assert (model.name, other.name) == ('SemanticGrouping', name)
        assert model.words.startswith('5 clusters of 96 tokens')
        assert other.words.startswith('5 clusters of 96 tokens')
        assert (model.clusters == other.clusters).all() == (name == 'SemanticGrouping')
    assert one.look(path, 1, 1, 1, amount=('num_clusters', 3))[0].words.startswith('3 clusters of 96')
    assert one.look(path, 3, 0, 5, amount=('num_clusters', 99))[0].words.startswith('6 clusters of 6 tokens')


def test_the_model_is_as_it_was(path):
    one = explorer()
    batch = one.read(path)[2]
    before = token_clusters(one.backbone, batch, [1])[0].ids
    one.look(path, 1, 1, 0, other='WindowGrouping', amount=('num_clusters', 2))
    assert torch.equal(token_clusters(one.backbone, batch, [1])[0].ids, before)
    assert one.look(path, 1, 1, 0)[0].words.startswith('8 clusters of 96')


def test_a_click_moves_the_frame_and_what_is_attended(path):
    one = explorer()
    here, there = (one.look(path, 0, 0, 0, place)[0] for place in ((0.1, 0.1), (0.9, 0.9)))
    assert here.clusters.shape == (512, 768, 3)
    assert (here.clusters != there.clusters).any(-1)[:100, :120].any()
    assert (here.clusters != there.clusters).any(-1)[400:, 650:].any()
    assert (here.clusters == there.clusters)[200:300].all()


@pytest.mark.parametrize('name', sorted(MERGINGS))
def test_a_vit_merges_by_each_method(path, name):
    one = explorer('ViT', SMALL_VIT, patch_size=4)
    assert {*GROUPINGS, *MERGINGS} == {*one.others}
    model, merged = one.look(path, 11, 0, 1, other=name)
    assert model.words.startswith('1 cluster of 384 tokens. The framed token attends to 384')
    assert merged.name == name
    if name in STRENGTHS:
        option, least, most, start, _ = STRENGTHS[name]
        assert one.look(path, 11, 0, 1, other=name, amount=(option, start))[1].words == merged.words
        # Each slider's ends are values that the method takes.
        ends = {one.look(path, 11, 0, 1, other=name, amount=(option, end))[1].words for end in (least, most)}
        assert len(ends) == 2


def test_a_vit_with_merging_stands_beside_a_grouping_without(path):
    one = explorer('ViT', SMALL_VIT, patch_size=4, merging=dict(type='ToMe', r=8))
    model, grouped = one.look(path, 5, 0, 0, other='WindowGrouping', amount=('num_clusters', 6))
    assert model.words.startswith('384 tokens become 336.')
    assert (model.name, grouped.name) == ('ToMe', 'WindowGrouping')
    assert grouped.words.startswith('6 clusters of 384 tokens')


def test_scales_of_clustr_and_what_it_cannot(path):
    one = explorer('ClusTR', SMALL_CLUSTR)
    assert one.others == []
    assert one.heads(0) == ['coarse scale', 'fine scale']
    coarse, fine = (one.look(path, 0, 0, scale)[0].words for scale in (0, 1))
    assert (coarse[:23], fine[:24]) == ('384 tokens become 6. Th', '384 tokens become 24. Th')


def test_large_images_are_shrunk_and_every_side_is_taken(tmp_path):
    one = explorer()
    for height, width in ((1, 1), (1, 900), (30, 3 * MAX_SIDE)):
        path = tmp_path / f'{width}.png'
        cv2.imwrite(str(path), np.zeros((height, width), np.uint8))
        assert one.read(path)[1].shape == (min(height, 10), min(width, MAX_SIDE), 3)
        assert cv2.imread(str(one.read(path)[0])).shape[1] == min(width, MAX_SIDE)
        assert one.look(path, 0, 0, 0, (1.0, 1.0))[0].clusters.shape[1] == 768
    assert len([*tmp_path.iterdir()]) == 3  # nothing is written beside an image


@pytest.mark.parametrize('config', [DETECTOR, SEGMENTER])
def test_a_checkpoint_with_a_head_predicts_and_one_without_does_not(shapes, tmp_path, path, config):
    config = small_run(config, shapes, tmp_path)
    whole, part = small_checkpoint(config), tmp_path / 'part.pth'
    one = Explorer(load_config(str(config)), str(whole), 'cpu')
    picture, words = one.predict(path)
    assert picture.shape == (64, 96, 3)
    assert words
    assert one.look(path, 0, 0, 0)
    assert one.title == 'SecViT, weights of config.pth'
    weights = {f'backbone.{name}': value for name, value in one.backbone.state_dict().items()}
    torch.save({'state_dict': weights}, part)
    assert Explorer(load_config(str(config)), str(part), 'cpu').predict is None


def test_a_classifier_names_the_likeliest_classes(tmp_path, path):
    pytest.importorskip('mmpretrain')
    config = load_config(str(small_run('mmpretrain/secvit/secvit_t_classifier_in1k.py', tmp_path, tmp_path)))
    state = MODELS.build(config.model).state_dict()
    state['head.fc.bias'][7] = 90.0
    torch.save({'state_dict': state}, tmp_path / 'whole.pth')
    picture, words = Explorer(config, str(tmp_path / 'whole.pth'), 'cpu').predict(path)
    assert picture is None
    assert words.startswith('class 7 100%, ')
    torch.save({'state_dict': {name: state[name] for name in state if name[:4] == 'back'}}, tmp_path / 'part.pth')
    assert Explorer(config, str(tmp_path / 'part.pth'), 'cpu').predict is None
