import errno
import os
import re
import stat

import pytest

from mmsec.engine.files import write_whole


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / 'new' / 'file'
    write_whole(path, b'one')
    with pytest.raises(TypeError):
        write_whole(path, 'no bytes')
    assert path.read_bytes() == b'one'
    write_whole(path, b'two')
    assert path.read_bytes() == b'two'
    assert os.listdir(path.parent) == ['file']


@pytest.mark.parametrize('number', [errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EIO])
def test_a_folder_that_cannot_be_flushed_does_not_fail_the_save(tmp_path, monkeypatch, number):
    flush = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        flush(descriptor)

    monkeypatch.setattr(os, 'fsync', fsync)
    write_whole(tmp_path / 'file', b'one')
    assert (tmp_path / 'file').read_bytes() == b'one'


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EIO])
def test_a_file_that_cannot_be_flushed_fails_the_save(tmp_path, monkeypatch, number):
    write_whole(tmp_path / 'file', b'one')

    def fsync(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, 'fsync', fsync)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        write_whole(tmp_path / 'file', b'two')
    assert (tmp_path / 'file').read_bytes() == b'one'
    assert os.listdir(tmp_path) == ['file']
