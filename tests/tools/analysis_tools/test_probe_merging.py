"""The probe on a tiny ViT and random images: rows at the cost that was asked for, and a call that goes on."""

import json

import cv2
import numpy as np
import pytest
import torch

from mmsec.models import ViT
from tests.conftest import ROOT, error_here, run_here

TOOL = 'analysis_tools/probe_merging.py'
BACKBONE = dict(arch=dict(embed_dims=32, depth=6, num_heads=2, mlp_ratio=2), patch_size=8, img_size=64)


@pytest.fixture
def probe(tmp_path, monkeypatch):
    """Its arguments, for images of which the left half is another class."""
    monkeypatch.syspath_prepend(ROOT / 'tools/analysis_tools')
    random = np.random.default_rng(0)
    for split in ('train', 'test'):
        for kind in ('images', 'annotations'):
            (tmp_path / kind / split).mkdir(parents=True)
        for i in range(3):
            image, labels = random.integers(0, 255, (60, 80, 3), np.uint8), np.full((60, 80), 3, np.uint8)
            image[:, :40], labels[:, :40], labels[:5] = image[:, :40] // 8, 1, 255
            cv2.imwrite(str(tmp_path / f'images/{split}/{i}.jpg'), image)
            cv2.imwrite(str(tmp_path / f'annotations/{split}/{i}.png'), labels)
    torch.save({'state_dict': ViT(**BACKBONE).state_dict()}, tmp_path / 'weights.pth')
    backbone = BACKBONE | dict(type='mmsec.ViT', init_cfg=dict(type='Pretrained', checkpoint=f'{tmp_path}/weights.pth'))
    base = str(ROOT / 'configs/mmseg/vit/vit_s_linear_imgfocus_camvid.py')
    (tmp_path / 'config.py').write_text(
        f'_base_ = {base!r}\nmodel = dict(backbone=dict(_delete_=True, **{backbone}))\n'
    )
    options = ['--sizes', '96x128', '--costs', 0.7, '--seeds', 2, '--steps', 60, '--repeats', 1]
    return [TOOL, tmp_path / 'config.py', '--data', f'camvid={tmp_path}', '--out', tmp_path / 'probe.json', *options]


def test_rows_cost_what_was_asked_for_and_a_second_call_measures_what_is_missing(probe, tmp_path):
    printed = run_here(*probe, '--methods', 'PiToMe').stdout
    first = json.loads((tmp_path / 'probe.json').read_text())
    rows = first['results']['camvid 96x128']
    assert list(rows) == ['none', 'PiToMe at 0.7']
    for row in rows.values():
        assert len(row['mIoU']) == len(row['aAcc']) == 2
        assert row['seconds_median'] > 0
    none, merged = rows.values()
    assert none['cosine'] == pytest.approx(1, abs=1e-5)
    assert min(none['aAcc']) > 80  # halves of two brightnesses
    assert merged['cosine'] < 1
    assert merged['share'] == merged['multiply_adds'] / none['multiply_adds'] == pytest.approx(0.7, rel=0.02)
    assert 'not_comparable' not in merged
    ours = f'| PiToMe | {merged["share"]:.2f} | ratio={merged["merging"]["ratio"]} | '
    time = merged['seconds_median'] / none['seconds_median']
    assert f' | {merged["cosine"]:.3f} | {time:.2f} | {merged["merging_share"]:.0%} |' in printed.split(ours)[1]
    assert 0 < merged['merging_share'] < 1
    assert none['merging_share'] == 0
    run_here(*probe, '--methods', 'PiToMe', 'ToMe')
    second = json.loads((tmp_path / 'probe.json').read_text())['results']['camvid 96x128']
    assert list(second) == ['none', 'PiToMe at 0.7', 'ToMe at 0.7']
    assert all(second[name][key] == row[key] for name, row in rows.items() for key in ('mIoU', 'cosine', 'merging'))
    assert 'no setting of it costs 0.7' in second['ToMe at 0.7']['not_comparable']  # so few tokens, so large steps


def test_what_cannot_be_probed_is_one_line(probe, tmp_path):
    (tmp_path / 'probe.json').write_text(json.dumps({'setup': {}, 'results': {}}))
    for options, message in (
        (['--costs', '1.5'], '--costs must be in (0, 1), got [1.5]'),
        (['--seeds', '0'], '--seeds must be at least 1, got 0'),
        (['--sizes', '96'], '--data takes NAME=DIR and --sizes HxW'),
        (['--data', 'coco=x'], '--data knows camvid, nuclei, got coco'),
        ([], 'was measured with {}'),
        (['--data', f'camvid={tmp_path}/absent', '--out', tmp_path / 'new.json'], 'no images of camvid in'),
        (['--sizes', '100x128', '--out', tmp_path / 'new.json'], '--sizes must be multiples of 8, got 100x128'),
    ):
        assert message in error_here(*probe, *options), options
    assert not (tmp_path / 'new.json').exists()
