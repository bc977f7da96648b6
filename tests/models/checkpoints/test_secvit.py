"""The public code's names -> ours."""

import pytest
import torch

from mmsec.errors import InputError
from mmsec.models import SecViT
from mmsec.models.checkpoints.loading import load_pretrained
from mmsec.models.checkpoints.reading import read_checkpoint
from tests.conftest import OFFICIAL, SMALL_ARCH


@pytest.fixture
def published():
    return read_checkpoint(OFFICIAL)


def saved(content, folder):
    path = folder / 'checkpoint.pth'
    torch.save(content, path)
    return path


def small(**options):
    return SecViT(SMALL_ARCH, **options)


def test_other_rotary_frequencies_are_an_error(published, tmp_path):
    published['model_ema']['layers.0.RoPE.angle'] *= 2
    with pytest.raises(InputError, match=r'layers\.0\.RoPE\.angle holds other rotary frequencies'):
        load_pretrained(small(), saved(published, tmp_path))
