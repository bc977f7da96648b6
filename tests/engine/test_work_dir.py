"""One run in a work dir, on a disk that may be full."""

import logging
import os
import types

import pytest
from mmengine.logging import MMLogger
from mmengine.visualization import LocalVisBackend

from mmsec.engine.work_dir import PatientStream, hold, peek, survive_full_disk
from mmsec.errors import InputError
from tests.engine import start

HOLDS = """
import os, sys, time
from mmsec.engine.work_dir import hold
hold(sys.argv[1])
if os.fork():
    print('held', flush=True)
time.sleep(float(sys.argv[2]))  # the child is a data worker that outlives the run
"""


def test_a_second_run_is_refused_until_the_first_is_dead(tmp_path):
    process = start('-c', HOLDS, tmp_path / 'work', 20)
    try:
        assert process.stdout.readline() == 'held\n'
        with pytest.raises(InputError, match=f"work dir '.*' is in use: process {process.pid} on .* trains in it"):
            hold(tmp_path / 'work')
        process.kill()
        process.wait()
        hold(tmp_path / 'work')
        hold(tmp_path / 'work')  # by the same process
    finally:
        process.kill()


def test_a_run_that_is_started_again_waits_for_the_end_of_the_one_before(tmp_path, log):
    process = start('-c', HOLDS, tmp_path, 2)
    assert process.stdout.readline() == 'held\n'
    hold(tmp_path, patience=60)
    assert [message for message in log if 'waiting for its end' in message]
    process.wait(60)


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path):
    (tmp_path / 'file').touch()
    (tmp_path / 'dangling').symlink_to(tmp_path / 'nowhere')
    for place in (tmp_path / 'file', tmp_path / 'file/below', tmp_path / 'dangling', '/proc/work'):
        with pytest.raises(InputError, match=r"work dir '.*' cannot be written to: .*another --work-dir"):
            hold(place)
    assert not list(tmp_path.glob('**/.*'))


def test_a_mount_without_locks_is_said(tmp_path, monkeypatch, log):
    def refuse(*args):
        raise OSError(37, 'No locks available')

    monkeypatch.setattr('fcntl.lockf', refuse)
    hold(tmp_path)
    assert 'mount without locks' in log[0]


def test_what_a_full_disk_refuses_is_a_line_and_what_is_wrong_otherwise_an_error(tmp_path, capsys):
    backend = LocalVisBackend(str(tmp_path / 'vis'))
    backend.add_scalar('loss', 1.0)
    logger = MMLogger.get_instance('full', log_file='/dev/full', file_mode='a')
    said = []
    listening = logging.Handler(logging.ERROR)
    listening.emit = lambda record: said.append(record.getMessage())
    logger.handlers.append(listening)
    survive_full_disk(
        types.SimpleNamespace(logger=logger, visualizer=types.SimpleNamespace(_vis_backends={'': backend}))
    )
    backend._scalar_save_file = '/dev/full'
    backend.add_scalar('loss', 1.0)
    backend.add_scalars({'loss': 1.0})
    assert said == ['LocalVisBackend did not write: [Errno 28] No space left on device. Training goes on'] * 2
    shown = capsys.readouterr().err
    assert shown == 'lines of the log are lost: [Errno 28] No space left on device\n'
    with pytest.raises(AssertionError):
        backend.add_scalars([])
    logger.info('%d', 'no number')
    assert 'TypeError' in capsys.readouterr().err


def test_output_that_a_full_disk_does_not_take_is_lost_and_a_closed_pipe_is_an_error():
    full = PatientStream(open('/dev/full', 'w'))  # noqa: SIM115
    print('a' * 10_000, file=full, flush=True)
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(BrokenPipeError):
        print('b', file=PatientStream(os.fdopen(write, 'w', buffering=1)), flush=True)


def test_what_is_no_checkpoint_is_nothing_to_peek_at(tmp_path):
    (tmp_path / 'a.pth').write_bytes(b'')
    os.mkfifo(tmp_path / 'pipe.pth')
    assert [peek(tmp_path / name) for name in ('a.pth', 'pipe.pth', 'absent.pth', '.')] == [{}] * 4
