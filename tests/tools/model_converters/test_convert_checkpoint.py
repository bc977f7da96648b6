import os

import torch

from mmsec.models import SecViT
from mmsec.models.checkpoints.loading import load_pretrained
from tests.conftest import ROOT, SMALL_ARCH, run_tool


def test_a_checkpoint_converts_both_ways(detector, tmp_path):
    _, work_dir, _ = detector
    for source in (work_dir / 'epoch_60.pth', ROOT / 'tests/data/secvit_official_tiny.pth'):
        target = tmp_path / 'new' / f'{source.stem}.pth'
        result = run_tool('model_converters/convert_checkpoint.py', source, target)
        assert str(target) in result.stdout
        direct, converted = SecViT(SMALL_ARCH), SecViT(SMALL_ARCH)
        load_pretrained(direct, source)
        load_pretrained(converted, target)
        for a, b in zip(direct.state_dict().values(), converted.state_dict().values(), strict=True):
            assert torch.equal(a, b)
    assert os.listdir(tmp_path / 'new') == [p.name for p in (tmp_path / 'new').iterdir() if p.suffix == '.pth']


def test_a_file_without_secvit_is_not_converted(tmp_path):
    torch.save({'state_dict': {'fc.weight': torch.zeros(1)}}, tmp_path / 'other.pth')
    result = run_tool(
        'model_converters/convert_checkpoint.py', tmp_path / 'other.pth', tmp_path / 'out.pth', check=False
    )
    assert 'holds no SecViT' in result.stdout
    assert not (tmp_path / 'out.pth').exists()
