import socket
import sys

import pytest

from mmsec.cli.explorer import Explorer
from mmsec.cli.weights import config_of_backbone
from mmsec.errors import InputError
from tests.conftest import SMALL_ARCH, error_here
from tools import explore

NEEDED = "the page needs gradio: pip install 'gradio>=6.31,<7'"


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    assert "pip install 'gradio" in error_here('explore.py')


def test_options_need_a_config(capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['explore.py', '--cfg-options', 'a=1'])
    with pytest.raises(SystemExit):
        explore.parse_args()
    assert '--cfg-options need a config' in capsys.readouterr().err


def test_a_port_that_cannot_be_used_is_one_line():
    gradio = pytest.importorskip('gradio', reason=NEEDED)
    with socket.create_server(('127.0.0.1', 0)) as other:
        for port in (other.getsockname()[1], 99999):
            with gradio.Blocks() as page:
                pass
            with pytest.raises(InputError, match=f'--port {port} cannot be used'):
                explore.launch(page, port)


def test_the_page_answers_and_outlives_bad_files(image, tmp_path, monkeypatch):
    pytest.importorskip('gradio', reason=NEEDED)
    from gradio_client import Client, handle_file

    monkeypatch.setenv('GRADIO_TEMP_DIR', str(tmp_path / 'page'))
    page = explore.make_page(Explorer(config_of_backbone('mmsec.SecViT', SMALL_ARCH), None, 'cpu'))
    address = explore.launch(page, None)
    assert address.startswith('http://127.0.0.1:')
    try:
        client = Client(address, verbose=False, download_files=str(tmp_path))

        def show(path, *rest):
            given = [0, 1, 0, 0.5, 0.5, 'WindowGrouping', '', 1, 1]
            return client.predict(handle_file(path), *rest, *given[len(rest) :], api_name='/show')

        (tmp_path / 'cut.png').write_bytes(image.read_bytes()[:900])
        (tmp_path / 'text.jpg').write_text('no image')
        for name in ('cut.png', 'text.jpg'):
            assert show(tmp_path / name)[0].startswith(f"**'{name}' is not an image")
        said, model, *_, beside, clusters, attended = show(
            image, 1, 2, 0, 0.1, 0.9, 'KMeansGrouping', 'num_clusters', 5
        )
        assert said == explore.HELP
        assert '5 clusters of 96 tokens' in model
        assert 'Beside it: KMeansGrouping' in beside
        assert clusters.endswith('.png')
        assert clusters != attended
        assert client.predict(handle_file(image), api_name='/predict')[1] == ''
    finally:
        page.close()
