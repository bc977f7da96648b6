"""The notebook runs from top to bottom in a fresh kernel, as somebody runs it who has cloned and has no data yet."""

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT


@pytest.fixture
def notebook():
    return nbformat.read(ROOT / 'docs/tutorial.ipynb', as_version=4)


def test_it_is_kept_without_outputs(notebook):
    assert [cell for cell in notebook.cells if cell.get('outputs') or cell.get('execution_count')] == []


def test_it_runs(notebook, tmp_path, monkeypatch):
    for folder in ('configs', 'docs', 'tests'):  # a checkout, whose work dir and data are the test's own
        (tmp_path / folder).mkdir()
        for each in (ROOT / folder).iterdir():
            (tmp_path / folder / each.name).symlink_to(each)
    monkeypatch.setenv('MMSEC_TUTORIAL_ITERATIONS', '2')
    monkeypatch.setenv('IPYTHONDIR', str(tmp_path / 'ipython'))  # no start-up files of whoever tests
    NotebookClient(notebook, timeout=600, resources={'metadata': {'path': tmp_path / 'docs'}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get('outputs', [])]
    printed = ''.join(each.get('text', '') for each in outputs)
    assert 'tests/data/nuclei: 3 images to train' in printed
    for stage, count in enumerate((32, 8, 2, 1), start=1):
        assert f'stage {stage}: {2**stage} heads, {128 >> stage}x{128 >> stage} tokens, clusters: {count}' in printed
    assert 'coco/segm_mAP: ' in printed
    assert 'nuclei with a score above 0.5' in printed
    assert sum('image/png' in each.get('data', {}) for each in outputs) == 4
    assert (tmp_path / 'work_dirs/tutorial/iter_2.pth').is_file()
