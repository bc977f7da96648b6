"""Checkpoints by URL, from a server on this machine."""

import hashlib
import http.server
import multiprocessing
import sys
import threading

import pytest
import torch

from mmsec.errors import InputError
from mmsec.models import SecViT
from mmsec.models.checkpoints.downloading import fetch
from mmsec.models.checkpoints.reading import read_checkpoint
from tests.conftest import OFFICIAL, SMALL_ARCH, run_here

CONTENT = OFFICIAL.read_bytes()
SUM = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one checkpoint, whole or not, and redirections."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path.startswith('/to/'):
            self.send_response(302)
            self.send_header('Location', {'/to/file': 'file:///etc/passwd', '/to/tiny.pth': '/tiny.pth'}[self.path])
            self.end_headers()
            return
        if self.path == '/absent.pth':
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header('Content-Length', str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1000] if 'broken' in self.path else CONTENT)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.asked = []
    server.url = f'http://127.0.0.1:{server.server_port}'
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def test_a_file_is_downloaded_once_and_read_as_one_on_this_machine(server, log):
    url = f'{server.url}/tiny.pth'
    read, local = read_checkpoint(url)['model'], read_checkpoint(OFFICIAL)['model']
    assert all(torch.equal(read[key], local[key]) for key in local)
    assert any(line.endswith(f'to be sure of it later: {url}#sha256={SUM}') for line in log), log
    assert fetch(url, SUM).read_bytes() == CONTENT
    assert server.asked == ['/tiny.pth']
    assert fetch(f'{server.url}/to/tiny.pth').read_bytes() == CONTENT


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('/absent.pth', r'cannot be downloaded \(Not Found\). Without a network: copy the file to'),
        ('/broken.pth', r'cannot be downloaded \(the connection broke after 1000 of \d+ bytes\)'),
        ('/to/file', r"cannot be downloaded \(.* Redirection to url 'file:///etc/passwd' is not allowed\)"),
        (f'/tiny.pth#sha256={"0" * 64}', f'has sha256 {SUM}, expected 0000'),
        ('/tiny-01234567.pth', f'has sha256 {SUM}, expected 01234567'),
        ('/tiny.pth#sha256=1', r"sha256 must be 8 to 64 hexadecimal digits, got '1'"),
    ],
)
def test_what_is_not_the_file_leaves_nothing_behind(server, tmp_path, name, message):
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            read_checkpoint(server.url + name)
    assert not [*tmp_path.rglob('*.pth')]


def test_no_server_and_other_schemes_are_one_line(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match=r'cannot be downloaded \(\[Errno 111\] Connection refused\)'):
        fetch(f'{server.url}/tiny.pth')
    for url in ('ftp://host/tiny.pth', 'file:///etc/passwd', 's3://bucket/tiny.pth'):
        with pytest.raises(InputError, match='expected https://HOST/FILE'):
            read_checkpoint(url)


def test_a_changed_file_in_the_cache_is_noticed(server):
    url = f'{server.url}/tiny-{SUM[:8]}.pth'
    fetch(url).write_bytes(b'other')
    with pytest.raises(InputError, match='it is damaged or another'):
        fetch(url)


def test_a_backbone_takes_an_address_and_a_sum_of_any_file(server):
    for path in (f'{server.url}/tiny.pth', str(OFFICIAL)):
        init_cfg = dict(type='Pretrained', checkpoint=path, sha256=SUM)
        SecViT(SMALL_ARCH, out_norm=False, init_cfg=init_cfg).init_weights()
        with pytest.raises(InputError, match='expected 00000000; it is damaged'):
            SecViT(SMALL_ARCH, out_norm=False, init_cfg=init_cfg | dict(sha256='0' * 8)).init_weights()


def test_weights_as_safetensors_are_read(tmp_path):
    state = {'a.weight': torch.randn(3, 2), 'a.bias': torch.zeros(3)}
    pytest.importorskip('safetensors.torch').save_file(state, tmp_path / 'a.safetensors')
    read = read_checkpoint(tmp_path / 'a.safetensors')
    assert all(torch.equal(read[key], state[key]) for key in state)


@pytest.mark.parametrize('form', ['pth', 'safetensors'])
def test_a_published_file_has_the_weights_alone_and_its_sum_in_its_name(form, tmp_path):
    if form == 'safetensors':
        pytest.importorskip('safetensors')
    state = {'backbone.a': torch.randn(3, 2)}
    (tmp_path / 'run').mkdir()
    torch.save(
        {'state_dict': state, 'optimizer': {'state': {}}, 'meta': {'cfg': 'secret'}}, tmp_path / 'run/iter_1.pth'
    )
    tool = 'model_converters/publish_model.py'
    printed = run_here(tool, tmp_path / 'run/iter_1.pth', tmp_path / 'out', '--format', form).stdout
    (path,) = (tmp_path / 'out').iterdir()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f'run-{digest[:8]}.{form}'
    assert f'Weights: https://HOST/{path.name}' in printed
    read = read_checkpoint(path)
    assert torch.equal(read.get('state_dict', read)['backbone.a'], state['backbone.a'])
    assert b'secret' not in path.read_bytes()


def test_eight_processes_at_once_download_once(server):
    with multiprocessing.get_context('fork').Pool(8) as pool:
        paths = pool.map(fetch, [f'{server.url}/tiny.pth'] * 8, chunksize=1)
    assert {path.stat().st_size for path in paths} == {len(CONTENT)}
    assert server.asked == ['/tiny.pth']


def test_a_file_of_the_hub_needs_its_package_and_a_whole_name(monkeypatch, tmp_path):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(InputError, match='needs a package: pip install huggingface_hub'):
        fetch('hf://owner/name/model.safetensors')
