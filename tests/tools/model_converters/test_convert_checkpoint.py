import pytest
import torch

from mmsec.models import SecViT
from mmsec.models.checkpoints.loading import load_pretrained
from tests.conftest import DETECTOR, OFFICIAL, SMALL_ARCH, error_here, run_here, small_checkpoint, small_run

TOOL = 'model_converters/convert_checkpoint.py'


@pytest.mark.parametrize('trained_here', [True, False])
def test_a_checkpoint_converts(shapes, tmp_path, trained_here):
    source = small_checkpoint(small_run(DETECTOR, shapes, tmp_path)) if trained_here else OFFICIAL
    target = tmp_path / 'new/converted.pth'
    assert str(target) in run_here(TOOL, source, target).stdout
    direct, converted = SecViT(SMALL_ARCH), SecViT(SMALL_ARCH)
    load_pretrained(direct, source)
    load_pretrained(converted, target)
    for a, b in zip(direct.state_dict().values(), converted.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert list(target.parent.iterdir()) == [target]


def test_a_file_without_secvit_is_not_converted(tmp_path):
    torch.save({'state_dict': {'fc.weight': torch.zeros(1)}}, tmp_path / 'other.pth')
    assert 'holds no SecViT' in error_here(TOOL, tmp_path / 'other.pth', tmp_path / 'out.pth')
    assert not (tmp_path / 'out.pth').exists()
