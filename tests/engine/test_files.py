import errno
import json
import math
import os
import re
import stat

import numpy as np
import pytest
import torch
from mmengine.fileio import dump

from mmsec.engine.files import to_json, write_whole


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / 'new' / 'file'
    write_whole(path, b'one')
    with pytest.raises(TypeError):
        write_whole(path, 'no bytes')
    assert path.read_bytes() == b'one'
    write_whole(path, b'two')
    assert path.read_bytes() == b'two'
    assert os.listdir(path.parent) == ['file']


@pytest.mark.parametrize('number', [errno.EINVAL, errno.ENOSPC, errno.EIO])
def test_a_file_that_cannot_be_flushed_fails_the_save_and_a_folder_does_not(tmp_path, monkeypatch, number):
    flush = os.fsync

    def fails(is_kind):
        def fsync(descriptor):
            if is_kind(os.fstat(descriptor).st_mode):
                raise OSError(number, os.strerror(number))
            flush(descriptor)

        monkeypatch.setattr(os, 'fsync', fsync)

    fails(stat.S_ISDIR)
    write_whole(tmp_path / 'file', b'one')
    fails(stat.S_ISREG)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        write_whole(tmp_path / 'file', b'two')
    assert (tmp_path / 'file').read_bytes() == b'one'
    assert os.listdir(tmp_path) == ['file']


@pytest.mark.parametrize(
    ('value', 'read'),
    [
        (math.nan, None),
        ([1.5, -math.inf, (True, 'NaN')], [1.5, None, [True, 'NaN']]),
        ({'a': {'b': np.float32('nan')}, 'c': np.int64(3)}, {'a': {'b': None}, 'c': 3}),
        (np.array([[0.5, np.inf]]), [[0.5, None]]),
        (torch.tensor([1.0, torch.nan]), [1, None]),
        ({'step': 1, 'grad_norm': torch.tensor(torch.inf)}, {'step': 1, 'grad_norm': None}),
    ],
)
def test_json_holds_no_number_that_json_has_no_word_for(tmp_path, value, read):
    dump(value, tmp_path / 'of_mmengine.json')
    for text in (to_json(value), to_json(value, 1), (tmp_path / 'of_mmengine.json').read_text()):
        assert json.loads(text, parse_constant=pytest.fail) == read
