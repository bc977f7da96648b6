"""docs/evidence.md is what its JSON files say, tried with figures that are made up."""

import json
from pathlib import Path

import cv2
import pytest

from mmsec.errors import InputError
from tests.conftest import ROOT


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools/analysis_tools'))
    import evidence_pages

    return evidence_pages


def row(**changes):
    """A finished run, made up."""
    return {
        'sha': 'x',
        'cpu': 'a CPU',
        'gpu': None,
        'threads': 2,
        'torch': '2.9',
        'git': 'abc123',
        'images': {'256x320': 2},
        'parameters': 14e6,
        'multiply_adds': 3e9,
        'multiply_adds_with_neck': 4e9,
        'seconds_per_iteration': 1.25,
        'minutes': 41.0,
        'peak_bytes': 2**30,
        'loss': {'step': [50, 100, 150], 'value': [3.0, 2.0, 1.5]},
        'nmi': 0.1,
    } | changes


def write(path: Path, runs: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({'runs': runs}))


def nuclei(mask: float, **changes) -> dict:
    metrics = {'coco/segm_mAP': mask, 'coco/segm_mAP_50': 0.7, 'coco/segm_mAP_75': 0.5, 'coco/bbox_mAP': 0.4}
    return row(metrics=metrics, **changes)


def test_the_committed_page_is_what_the_committed_figures_say(tool, tmp_path):
    text = tool.PAGE.read_text()
    images = tmp_path / 'images'
    assert tool.page(text, ROOT / 'docs/evidence', images) == text, (
        'docs/evidence.md is out of date: python tools/analysis_tools/evidence.py --pages'
    )
    drawn = {path.name for path in images.iterdir()}
    assert {name for name in drawn if not (ROOT / 'docs/images' / name).is_file()} == set()


def test_a_page_of_nothing_says_so_everywhere_and_shows_no_picture(tool, tmp_path):
    page = tool.write_page(tmp_path / 'evidence')
    assert page == tmp_path / 'evidence.md'
    blocks = page.read_text().split('<!-- evidence: ')[1:]
    assert len(blocks) == 6
    for block in blocks:
        table = block.partition('<!-- /evidence -->')[0]
        assert 'not run yet' in table
        assert '![' not in table
    assert list((tmp_path / 'images').iterdir()) == []


def test_a_page_without_a_block_is_refused(tool, tmp_path):
    text = tool.PAGE.read_text().replace('<!-- evidence: merging -->', '<!-- evidence: murging -->')
    with pytest.raises(InputError, match=r'must have one block for each of backbones, .* got backbones, .*murging'):
        tool.page(text, tmp_path / 'evidence', tmp_path / 'images')


def test_backbones_have_their_seeds_costs_failures_and_curves(tool, tmp_path, monkeypatch):
    out = tmp_path / 'evidence'
    runs = {
        'secvit_t_maskrcnn_nuclei': {'0': nuclei(0.3111), '1': nuclei(0.3211, minutes=43.0, git='abc123, 0ff')},
        'swin_t_maskrcnn_nuclei': {'0': nuclei(0.2), '1': row(failed='exit code 1: a|b')},
        'secvit_t_upernet_camvid': {'0': row(metrics={'mIoU': 45.678, 'aAcc': 81.0})},
    }
    for seeds in runs.values():
        for each in seeds.values():
            each['clusters'] = []
    write(out / 'backbones.json', runs)
    curves, draw = {}, tool.draw_curves
    monkeypatch.setattr(tool, 'draw_curves', lambda panels, path: curves.update(panels) or draw(panels, path))
    lines = '\n'.join(tool.backbones(out, tmp_path))
    link = '[SecViT-T](../configs/mmdet/secvit_t_maskrcnn_nuclei.py)'
    metrics = '0.311 / 0.321 | 0.700 / 0.700 | 0.500 / 0.500 | 0.400 / 0.400'
    assert f'| {link} | 2 | {metrics} | 14.0 | 4.00 | 2 | 1.25 | 42 | 1024 |  |' in lines
    assert (
        '| 1 | 0.200 | 0.700 | 0.500 | 0.400 | 14.0 | 4.00 | 2 | 1.25 | 41 | 1024 | seed 1 failed: exit code 1: a/b |'
        in lines
    )
    assert '| [ResNet-50](../configs/mmdet/evidence/resnet50_maskrcnn_nuclei.py) | not run yet |' in lines
    assert '| 45.7 | 81.0 |' in lines
    spread = 'mask AP 0.007, mask AP50 0.000, mask AP75 0.000, box AP 0.000.'  # of 0.3111 and 0.3211
    assert f'The spread of seeds, pooled over the rows that have several: {spread}' in lines
    assert lines.count('The spread of seeds') == 1  # no row of CamVid has several seeds
    assert 'Measured on a CPU, threads of each run: 2, torch 2.9, revision 0ff, abc123. Log, with' in lines
    assert lines.endswith('every run: [backbones.json](evidence/backbones.json).')
    assert cv2.imread(str(tmp_path / 'evidence_curves.png')).shape[1] == 1440
    drawn = {title: {name: len(rows) for name, rows in panel.items() if rows} for title, panel in curves.items()}
    assert drawn == {
        'Nuclei, Mask R-CNN': {'SecViT-T': 2, 'Swin-T': 1},
        'CamVid, UperNet': {'SecViT-T': 1},
    }


def groupings(values: dict[str, list[float]]) -> dict:
    return {
        name: {str(seed): row(metrics={'mIoU': value}) for seed, value in enumerate(each)}
        for name, each in values.items()
    }


def test_what_is_up_to_twice_the_pooled_spread_is_noise(tool, tmp_path):
    out = tmp_path / 'evidence'
    values = {  # the standard deviation in each is 1
        'SemanticGrouping': [29.0, 30.0, 31.0],
        'WindowGrouping': [30.9, 31.9, 32.9],
        'RandomGrouping': [26.9, 27.9, 28.9],
        'KMeansGrouping': [31.1, 32.1, 33.1],
        'ProjectionGrouping': [50.0, 50.0 + 2**0.5],
    }
    runs = groupings(values)
    runs['SemanticGrouping metric=dot'] = {'0': row(failed='exit code 1: loss is nan')}
    write(out / 'groupings/comparison.json', runs)
    text = '\n'.join(tool.groupings(out, tmp_path))
    assert '| SemanticGrouping | 30.00 | 1.00 | 3 |  | the published one |' in text
    assert '| WindowGrouping | 31.90 | 1.00 | 3 | +1.90 | within noise |' in text
    assert '| RandomGrouping | 27.90 | 1.00 | 3 | -2.10 | lower, beyond noise |' in text
    assert '| KMeansGrouping | 32.10 | 1.00 | 3 | +2.10 | higher, beyond noise |' in text
    assert '| ProjectionGrouping | 50.71 | 1.00 | 2 | +20.71 | too few seeds |' in text
    assert 'seed 0 failed: exit code 1: loss is nan' in text
    beyond = 'Rows that differ from the published one by more: RandomGrouping (lower), KMeansGrouping (higher).'
    assert f'The spread is 1.00 mIoU, so noise is up to 2.00. {beyond}' in text
    # each seed is as much better in all rows, so no spread is left without that
    beyond = 'WindowGrouping (higher), RandomGrouping (lower), KMeansGrouping (higher)'
    assert f'taken off, the spread is 0.00, and twice that 0.00. Rows that differ by more: {beyond}.' in text
    order = [line.split(' | ')[0][2:] for line in text.splitlines() if line.startswith('| ')][1:]
    assert order[:-1] == list(tool.GROUPINGS[:-1])  # and not by rank
    assert cv2.imread(str(tmp_path / 'evidence_groupings.png')) is not None


def test_numbers_of_clusters_stand_beside_the_published_one_and_global_attention(tool, tmp_path):
    out = tmp_path / 'evidence'
    others = groupings({tool.PUBLISHED: [29.0, 30.0, 31.0], tool.GLOBAL: [31.0], 'WindowGrouping': [1.0, 9.0]})
    others[tool.GLOBAL]['0']['git'], others['WindowGrouping']['0']['git'] = 'of global attention', 'of windows'
    write(out / 'groupings/comparison.json', others)
    write(out / 'clusters/comparison.json', groupings({tool.COUNTS[0]: [30.2, 30.3, 30.4]}))
    text = '\n'.join(tool.clusters(out, tmp_path))
    assert '| 1,1,1,1 | 31.00 |' in text
    assert '| 32,8,2,1 (published) | 30.00 |' in text
    assert '| 8,2,1,1 | 30.30 | 0.10 | 3 | +0.30 | within noise | 1.25 | 3.00 |  |' in text
    assert '| 32,8,[4,4,4,2,2,2,1,1,1],1 | not run yet |' in text
    assert 'NMI' not in text  # of other stages in each row
    assert 'Window' not in text
    assert 'revision abc123, of global attention. Log' in text
    assert 'groupings/comparison.json), [clusters/comparison.json](evidence/clusters/comparison.json).' in text
    spread = 'The spread is 2.61 mIoU'  # sqrt((2 * 1 + 1 * 32 + 2 * 0.01) / 5), all runs of the model
    assert spread in text
    assert spread in '\n'.join(tool.groupings(out, tmp_path))
    assert cv2.imread(str(tmp_path / 'evidence_clusters.png')) is not None


def test_a_detector_that_finds_nothing_has_a_row(tool, tmp_path):
    out = tmp_path / 'evidence'
    tested = {name: {'metrics': found}
              for name, found in (('nothing', {'coco/segm_mAP': 0.3}), ('ToMe r=64', {}))}  # fmt: skip
    found = row(metrics={}, merging=tested, merged_multiply_adds={'nothing': 2e9, 'ToMe r=64': 1e9})
    write(out / 'backbones.json', {'vit_s_maskrcnn_nuclei': {'0': found}})
    assert '| 1 | - | - | - | - | 14.0 |' in '\n'.join(tool.backbones(out, tmp_path))
    assert '| ToMe r=64 | - | 1.00 | 0.50 | - | - |' in '\n'.join(tool.merging(out, tmp_path))


def test_merging_semantic_and_transfer_come_from_the_runs_of_the_backbones(tool, tmp_path, monkeypatch):
    out = tmp_path / 'evidence'
    tested = {
        name: {'metrics': {'coco/segm_mAP': mask}}
        for name, mask in (('nothing', 0.3), ('ToMe r=4', 0.29), ('ToMe r=8', 0.25))
    }
    adds = {'nothing': 10e9, 'ToMe r=4': 8e9, 'ToMe r=8': 5e9}
    stage = {'stage': 2, 'grouping': 'trained', 'nmi_classes': 0.2, 'nmi_instances': None, 'purity_classes': 0.4,
             'purity_instances': None, 'compactness': 0.1}  # fmt: skip
    runs = {
        'vit_s_maskrcnn_nuclei': {'0': nuclei(0.3, merging=tested, merged_multiply_adds=adds)},
        'secvit_t_maskrcnn_nuclei': {
            '0': nuclei(0.31, clusters=[stage, stage | {'grouping': 'random'}]),
            '1': nuclei(0.32, clusters=[stage | {'nmi_classes': 0.4}]),
        },
    }
    write(out / 'backbones.json', runs)
    learnt = {'secvit_t_maskrcnn_nuclei_from_shapes': nuclei(0.35), 'secvit_t_maskrcnn_nuclei_kaiming': nuclei(0.33)}
    learnt['secvit_t_upernet_camvid_kaiming'] = row(metrics={'mIoU': 31.0, 'aAcc': 77.0})
    write(out / 'transfer.json', {name: {'0': found} for name, found in learnt.items()})
    machine = {'cpu': 'a CPU', 'gpu': None, 'threads': 2, 'torch': '2.9'}
    seconds = {'nothing': 0.2, 'ToMe r=4': 0.25, 'ToMe r=8': 0.15}
    times = {'nuclei': {'machine': machine, 'git': 'abc123', 'seconds': seconds}}
    (out / 'merging_times.json').write_text(json.dumps(times))
    panels, plot = {}, tool.draw_merging
    monkeypatch.setattr(tool, 'draw_merging', lambda found, path: panels.update(found) or plot(found, path))
    text = '\n'.join(tool.merging(out, tmp_path))
    assert '| nothing | 0.300 | 10.00 | 1.00 | 0.200 | 1.00 |' in text
    assert '| ToMe r=8 | 0.250 | 5.00 | 0.50 | 0.150 | 0.75 |' in text
    assert 'Seconds on a CPU, threads: 2, torch 2.9, revision abc123. Log:' in text
    points = [
        {'metric': 0.29, 'multiply_adds': 8e9, 'seconds': 0.25},
        {'metric': 0.25, 'multiply_adds': 5e9, 'seconds': 0.15},
    ]
    assert panels['Nuclei, Mask R-CNN'][1]['ToMe'] == points
    assert 'CamVid, UperNet, not run yet:' in text
    assert cv2.imread(str(tmp_path / 'evidence_merging.png')) is not None
    drawn, draw = {}, tool.draw_semantic
    monkeypatch.setattr(tool, 'draw_semantic', lambda panels, path: drawn.update(panels) or draw(panels, path))
    text = '\n'.join(tool.semantic(out, tmp_path))
    assert drawn == {'Nuclei, Mask R-CNN': {'trained': {2: pytest.approx(0.3)}, 'random split': {2: 0.2}}}
    assert cv2.imread(str(tmp_path / 'evidence_semantic.png')) is not None
    assert '| stage |  | NMI with classes | purity of classes | compactness |' in text
    assert '| 2 | trained | 0.300 | 0.400 | 0.100 |' in text
    assert '| 2 | random split | 0.200 | 0.400 | 0.100 |' in text
    text = '\n'.join(tool.transfer(out, tmp_path))
    assert text.endswith('[backbones.json](evidence/backbones.json), [transfer.json](evidence/transfer.json).')
    assert '| random, the default | 2 | 0.310 / 0.320 |' in text
    assert '| random, as the demo starts | 1 | 0.330 |' in text
    assert '| learnt by the demo on shapes | 1 | 0.350 |' in text
    text = text.partition('CamVid, UperNet:')[2]
    assert '| random, the default | not run yet |' in text
    assert '| random, as the demo starts | 1 | 31.0 | 77.0 |' in text
    assert 'learnt by the demo' not in text
    assert cv2.imread(str(tmp_path / 'evidence_transfer.png')) is not None
