"""One look at projects/evidence: what is finished is finished, the page is what its rows say, and a comparison runs."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT, SEGMENTER, small_run

PIPELINE = ROOT / 'projects/evidence'


def call(tool, *arguments):
    command = [sys.executable, PIPELINE / tool, *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def test_no_run_is_left_and_the_page_is_what_the_rows_say(tmp_path):
    out = tmp_path / 'evidence'
    shutil.copytree(ROOT / 'docs/evidence', out)
    shutil.copy(ROOT / 'docs/evidence.md', tmp_path)
    whole = ['semantic', 'transfer', 'groupings', 'clusters']
    assert '\nto run: 0, 1 at the same time' in call('evidence.py', '--plan', '--out', out, '--section', *whole)
    call('evidence.py', '--pages', '--out', out)
    assert (tmp_path / 'evidence.md').read_text() == (ROOT / 'docs/evidence.md').read_text()
    drawn = {path.name for path in (tmp_path / 'images').iterdir()}
    assert drawn == {path.name for path in (ROOT / 'docs/images').glob('evidence_*')}


def test_pairs_are_tested_when_all_runs_of_the_plan_are_there(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(PIPELINE)
    from evidence_pages import pairs
    from evidence_runs import PAIRED_SEEDS, PAIRED_WITH, PUBLISHED

    rows = json.loads((ROOT / 'docs/evidence/pairs_camvid.json').read_text())['runs']
    row = next(iter(rows[PUBLISHED].values()))
    runs = {
        text: {
            str(seed): row | {'metrics': {'mIoU': seed % 5 + 2 * i + 0.1 * (seed % (i + 2))}} for seed in PAIRED_SEEDS
        }
        for i, text in enumerate((PUBLISHED, *PAIRED_WITH))
    }
    (tmp_path / 'pairs_camvid.json').write_text(json.dumps({'runs': runs}))
    text = '\n'.join(pairs(tmp_path, tmp_path))
    assert '| WindowGrouping | ' in text
    assert 'Nuclei: 0 of 126 runs' in text
    assert (tmp_path / 'evidence_pairs.png').stat().st_size
    del runs[PUBLISHED]['9']
    (tmp_path / 'pairs_camvid.json').write_text(json.dumps({'runs': runs}))
    assert 'CamVid: 125 of 126 runs' in '\n'.join(pairs(tmp_path, tmp_path))


def test_a_difference_is_that_of_its_seeds_with_the_interval_and_the_correction_of_the_books(monkeypatch):
    monkeypatch.syspath_prepend(PIPELINE)
    from paired import differences

    rows = {
        'base': {'0': 1.0, '1': 2.0, '2': 3.0, '3': 9.0},
        'more': {'0': 2.0, '1': 4.0, '2': 6.0},  # 1, 2 and 3 more: t = 2 / (1 / sqrt(3))
        'same': {'0': 1.0, '1': 2.1, '2': 2.9},
        'few': {'0': 5.0, '1': 6.0, '9': 7.0},
    }
    found = differences(rows, 'base')
    assert list(found) == ['more', 'same']
    more = found['more']
    assert more.pairs == 3
    assert (more.mean, more.std) == (pytest.approx(2), pytest.approx(1))
    assert (more.low, more.high) == (
        pytest.approx(2 - 4.303 / 3**0.5, abs=1e-3),
        pytest.approx(2 + 4.303 / 3**0.5, abs=1e-3),
    )
    assert more.p == pytest.approx(0.0742, abs=1e-4)
    assert more.adjusted == pytest.approx(2 * more.p)
    assert found['same'].adjusted == pytest.approx(1)


def test_groupings_are_trained_measured_and_gone_on_with(shapes, tmp_path):
    config, out = small_run(SEGMENTER, shapes, tmp_path), tmp_path / 'out'
    grouping = 'WindowGrouping shift=True'
    options = [config, '--seeds', 1, '--iters', 2, '--images', 2, '--out', out, '--groupings', grouping]
    printed = call('compare_groupings.py', *options)
    (row,) = json.loads((out / 'comparison.json').read_text())['summary'].values()
    assert f'| {grouping} | {row["mean"]:.4g} | - | 1 | {row["seconds_per_iteration"]:.3f} |' in printed
    assert row['values'] == [pytest.approx(row['mean'])]
    assert row['ami'] is not None
    log = out / 'WindowGrouping_shift=True/seed0/log.txt'
    log.write_text('')
    call('compare_groupings.py', *options)
    assert log.read_text() == ''  # what has a row does not run again
    assert json.loads((out / 'comparison.json').read_text())['summary'] == {grouping: row}
