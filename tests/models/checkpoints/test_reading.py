"""Checkpoint files that are damaged, of another kind, or attacks."""

import argparse
import io
import os
import random
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path

import numpy as np
import pytest
import torch
from addict import Dict
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

from mmsec import compat
from mmsec.errors import InputError
from mmsec.models.checkpoints.reading import forget_checkpoints, read_checkpoint, weights_of
from tests.conftest import OFFICIAL

WEIGHTS = {'w': torch.arange(3.0)}


def saved(content, folder, **options):
    path = folder / 'c.pth'
    torch.save(content, path, **options)
    return path


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


# What MMEngine, mmcv 1.x and published training code pickle beside tensors -> what is read.
AS_DATA = {
    'history': (HistoryBuffer([1.0, 2.5], [1, 3]), {'values': [1.0, 2.5], 'counts': [1, 3]}),
    'numbers': ([np.float64(1.5), np.float32(2), np.int64(3), np.bool_(True), np.str_('é')], [1.5, 2.0, 3, True, 'é']),
    'objects': (np.array([{'a': 1}, 'b'], dtype=object), [{'a': 1}, 'b']),
    'config of mmengine': (ConfigDict(a=ConfigDict(b=[1])), {'a': {'b': [1]}}),
    'config file': (Config(dict(a=dict(b=1))), {'a': {'b': 1}}),
    'config of mmcv 1': (Dict(a=1, items=Dict(b=2)), {'a': 1, 'items': {'b': 2}}),
    'collections': ([defaultdict(list, a=[1]), deque([1, 2]), Counter('aa')], [{'a': [1]}, [1, 2], {'a': 2}]),
    'paths': (Path('/a/b'), '/a/b'),
    'versions': (torch.torch_version.TorchVersion('2.1'), '2.1'),
    'methods are left out': ({'anneal_func': OneCycleParamScheduler._annealing_cos, 'a': 1}, {'a': 1}),
}


@pytest.mark.parametrize('name', AS_DATA)
@pytest.mark.parametrize('old', [False, True])
def test_what_others_keep_in_checkpoints_is_read_as_plain_values(tmp_path, name, old):
    given, expected = AS_DATA[name]
    path = saved({'state_dict': WEIGHTS, 'x': given}, tmp_path, _use_new_zipfile_serialization=not old)
    if old:  # as NumPy 1 and mmcv 1.x call their own
        content = path.read_bytes().replace(b'numpy._core', b'numpy.core')
        path.write_bytes(content.replace(b'mmengine.config.config\n', b'mmcv.utils.config\n'))
    found = read_checkpoint(path)['x']
    assert found == expected
    assert {type(each).__module__ for each in (found if isinstance(found, list) else [found])} <= {
        'builtins',
        'collections',
    }


def test_arrays_stay_arrays(tmp_path):
    arrays = [np.arange(6).reshape(2, 3), np.asfortranarray(np.eye(2, 3)), np.array([1, 2], '>i4'), np.array(2.5)]
    found = read_checkpoint(saved({'state_dict': WEIGHTS, 'x': arrays}, tmp_path))['x']
    assert all(
        np.array_equal(one, other) and one.dtype == other.dtype for one, other in zip(found, arrays, strict=True)
    )


def test_a_message_hub_that_was_pickled_whole_is_read(tmp_path):
    hub = MessageHub('of_the_test')
    hub.update_scalar('train/loss', 1.5)
    hub.update_info('eta', np.float64(2))
    found = read_checkpoint(saved({'state_dict': WEIGHTS, 'message_hub': hub}, tmp_path))['message_hub']
    assert found['log_scalars'] == {'train/loss': {'values': [1.5], 'counts': [1]}}
    assert found['runtime_info'] == {'eta': 2.0}
    assert MessageHub('another').load_state_dict(found) is None


def test_what_a_pickle_sets_on_a_state_dict_is_not_taken_but_its_versions(tmp_path):
    state = OrderedDict(WEIGHTS)
    state.keys = state.get = 1  # hides its methods
    state._metadata = {'': {'version': 1}}
    state = read_checkpoint(saved({'state_dict': state}, tmp_path))['state_dict']
    assert list(state.keys()) == ['w']
    assert weights_of({'state_dict': state})._metadata == {'': {'version': 1}}


REFUSED = {  # what a file holds -> the reason
    'list': ([1], 'holds a list, expected a dict'),
    'tensor': (torch.zeros(1), 'holds a Tensor, expected a dict'),
    'nothing': ({}, 'no weights: .* got nothing'),
    'no state dict': ({'meta': {}, 'optimizer': {}}, 'no weights: expected .*state_dict.* got meta, optimizer'),
    'empty': ({'model': {}, 'model_ema': None}, 'no weights'),
    'nested': ({'state_dict': {'state_dict': WEIGHTS}}, r'state_dict\.state_dict is a dict, expected a tensor'),
    'nested under a name of its own': ({'network': WEIGHTS}, 'no weights: .* got network'),
    'state dict a list': ({'state_dict': [WEIGHTS]}, 'state_dict is a list'),
    'state dict a tensor': ({'model': torch.zeros(2)}, 'model is a Tensor'),
    'averages a list': ({'state_dict': WEIGHTS, 'ema_state_dict': [1]}, 'ema_state_dict is a list'),
    'int keys': ({'state_dict': {0: torch.zeros(2)}}, 'state_dict has the key 0'),
    'bare int keys': ({0: torch.zeros(2)}, 'has the key 0'),
    'number': ({'state_dict': {'w': 1.0}}, r'state_dict\.w is a float'),
    'array': ({'state_dict': {'w': np.zeros(2)}}, r'state_dict\.w is a ndarray'),
    'sparse': ({'state_dict': {'w': torch.eye(2).to_sparse()}}, 'w is sparse'),
    'compressed rows': ({'w': torch.eye(2).to_sparse_csr()}, 'w is sparse'),
    'meta device': ({'state_dict': {'w': torch.empty(2, device='meta')}}, 'quantized or meta'),
    'quantized': (
        {'model': {'w': torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8)}},
        'quantized|_rebuild_qtensor',
    ),
    'repeated': ({'state_dict': {'w': torch.zeros(1).expand(10**12)}}, 'more numbers than the file holds'),
    'two keys': ({'state_dict': {'w': torch.zeros(1), 'module.w': torch.ones(1)}}, 'two keys for one weight, w'),
    'class': ({'state_dict': WEIGHTS, 'x': OrderedDict}, 'x holds a OrderedDict'),
}
for place, values in {
    'meta': ['a', [1], None],
    'message_hub': ['a', [1], None],
    'meta.epoch': ['a', [1]],
    'meta.iter': [2.5],
    'meta.cfg': [[1]],
    'meta.dataset_meta': ['a', [1]],
    'message_hub.log_scalars': [[1]],
    'message_hub.runtime_info': ['a'],
}.items():
    for value in values:
        part, _, inner = place.partition('.')
        content = {'state_dict': WEIGHTS, part: {inner: value} if inner else value}
        REFUSED[f'{place} {value}'] = content, f'{place} is of type {type(value).__name__}, expected (int|dict|str)'


@pytest.mark.parametrize('name', REFUSED)
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path, name):
    content, reason = REFUSED[name]
    with pytest.raises(InputError, match=rf"c\.pth' cannot be read: .*{reason}") as error:
        read_checkpoint(saved(content, tmp_path))
    assert '\n' not in str(error.value)


def test_a_state_without_weights_is_read_and_gives_none(tmp_path):
    checkpoint = read_checkpoint(saved({'state_dict': {}, 'meta': {'epoch': 1}}, tmp_path))
    assert checkpoint['meta'] == {'epoch': 1}
    with pytest.raises(InputError, match=r'no weights: .* got state_dict, meta'):
        weights_of(checkpoint)


def zipped(compression=zipfile.ZIP_STORED, **files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w', compression) as archive:
        for name, text in files.items():
            archive.writestr(f'archive/{name}', text)
    return content.getvalue()


FILES = {
    'empty': b'',
    'text': b'no checkpoint\n' * 9,
    'zip of another kind': zipped(readme='hello'),
    'zip that inflates': zipped(zipfile.ZIP_DEFLATED, data=bytes(10**8)),
    'zip without an end': zipped(data='x' * 200)[:150],
}


@pytest.mark.parametrize('name', FILES)
def test_other_files_are_refused_in_one_line_without_being_read_into_memory(tmp_path, monkeypatch, name):
    path = tmp_path / 'c.pth'
    path.write_bytes(FILES[name])
    if name == 'zip that inflates':
        monkeypatch.setattr(zipfile.ZipFile, 'testzip', lambda archive: pytest.fail('inflated'))
    with pytest.raises(InputError, match=r"c\.pth' cannot be read: ") as error:
        read_checkpoint(path)
    assert '\n' not in str(error.value)


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / 'pipe')  # which would be waited for
    (tmp_path / 'link').symlink_to('pipe')
    for name, reason in {'pipe': 'is a pipe', 'link': 'is a pipe', '.': 'is a folder', 'absent': 'not found'}.items():
        with pytest.raises(InputError, match=reason):
            read_checkpoint(tmp_path / name)
    for path in ('', None, 'a\0b', '/dev/zero'):
        with pytest.raises(InputError, match=r'not found|device'):
            read_checkpoint(path)


def test_a_refusal_does_not_advise_to_trust_the_file(tmp_path):
    advice = ('weights_only', 'trust', 'safe_globals', 'pickle_module')
    script = tmp_path / 'script.pth'
    torch.jit.script(torch.nn.Linear(2, 2)).save(script)
    paths = [script]
    for i, content in enumerate([{'x': pytest.fail}, {'x': slice(1), 'y': torch.nn.Linear(1, 1)}]):
        (tmp_path / str(i)).mkdir()
        paths.append(saved(content, tmp_path / str(i)))
    if compat.TORCH >= (2, 6):  # older ones read it, by pickle itself
        (tmp_path / 'fourth').mkdir()
        paths.append(saved({'state_dict': WEIGHTS}, tmp_path / 'fourth', pickle_protocol=4))
    for path in paths:
        with pytest.raises(InputError) as error:
            read_checkpoint(path)
        assert not [word for word in advice if word in str(error.value)]


def test_a_file_is_read_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    path = saved({'state_dict': WEIGHTS, 'meta': {'epoch': 1}}, tmp_path)
    os.utime(path, ns=(0, 10**18))
    reads = []
    load = torch.load
    monkeypatch.setattr(torch, 'load', lambda *args, **kwargs: reads.append(args) or load(*args, **kwargs))
    first = read_checkpoint(path)
    first['meta']['epoch'] = first['state_dict']['more'] = 9  # what one reader changes, others do not see
    again = read_checkpoint(path)
    assert again['meta'] == {'epoch': 1}
    assert list(again['state_dict']) == ['w']
    assert len(reads) == 1
    os.utime(path, ns=(0, 2 * 10**18))  # in the future: it may change again
    for times in (2, 3):
        read_checkpoint(path)
        assert len(reads) == times
    os.utime(path, ns=(0, 10**18))
    forget_checkpoints()
    read_checkpoint(path)
    assert len(reads) == 4
