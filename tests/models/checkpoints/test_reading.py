"""Checkpoint files that are damaged, of another kind, or attacks."""

import argparse
import os
import random

import pytest
import torch

from mmsec.errors import InputError
from mmsec.models.checkpoints.reading import read_checkpoint
from tests.conftest import OFFICIAL


def test_twenty_truncations_and_bit_flips_are_errors_or_harmless(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    torch.save({'meta': {'iter': 20, 'epoch': 0}, 'state_dict': {'w': torch.rand(500)}}, path)
    content, whole = path.read_bytes(), read_checkpoint(path)
    moments = random.Random(1)
    refused = 0
    for i in range(20):
        damaged = bytearray(content)
        if i % 2:
            damaged = damaged[: moments.randrange(len(damaged)) if i > 1 else 0]
        else:
            damaged[moments.randrange(len(damaged))] ^= 1 << moments.randrange(8)
        path.write_bytes(damaged)
        try:
            loaded = read_checkpoint(path)
        except InputError as error:
            said = str(error)
            assert "epoch_1.pth' cannot be read: the file is damaged or no checkpoint" in said
            refused += 1
        else:  # the bit was one of the zeros between files of the archive
            assert torch.equal(loaded['state_dict']['w'], whole['state_dict']['w'])
            assert loaded['meta'] == whole['meta']
    assert refused >= 15


def test_a_pickle_that_would_run_code_does_not(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'attacked'),)

    torch.save({'state_dict': Attack()}, tmp_path / 'epoch_1.pth')
    with pytest.raises(InputError, match=r'it holds a .*mkdir, and only tensors and plain values are loaded'):
        read_checkpoint(tmp_path / 'epoch_1.pth')
    assert not (tmp_path / 'attacked').exists()


def test_options_in_a_namespace_are_read():
    assert isinstance(read_checkpoint(OFFICIAL)['args'], argparse.Namespace)


def test_a_file_without_a_dict_is_an_error(tmp_path):
    path = tmp_path / 'tensor.pth'
    torch.save(torch.zeros(1), path)
    with pytest.raises(InputError, match='holds a Tensor, expected a dict'):
        read_checkpoint(path)
