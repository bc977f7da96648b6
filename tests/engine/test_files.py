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
