"""What is called noise, and what docs/evidence.md says of how often that is mistaken."""

import itertools

import numpy as np
import pytest

from tests.conftest import ROOT


@pytest.fixture
def pages(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools/analysis_tools'))
    import evidence_pages

    return evidence_pages


@pytest.fixture
def tool(pages):
    import evidence_noise

    return evidence_noise


def test_the_page_says_how_often_rows_that_are_no_different_look_different(tool, pages):
    text = ' '.join(pages.PAGE.read_text().split())
    generator, tables = np.random.default_rng(0), 50_000
    # of six backbones three have two seeds, whose spread is known, and three have one
    seeds = [2, 2, 2, 1, 1, 1]
    values = generator.normal(size=(tables, 6, 2))
    spread = values[:, :3].var(axis=2, ddof=1).mean(axis=1) ** 0.5
    means = np.concatenate([values[:, :3].mean(axis=2), values[:, 3:, 0]], axis=1)
    factors = {4: 3.2, 3: 3.9, 2: 4.5}  # by the seeds of both
    assert all(f'| {factor} |' in text for factor in factors.values())
    beyond = [
        np.abs(means[:, first] - means[:, second]) > factors[seeds[first] + seeds[second]] * spread
        for first, second in itertools.combinations(range(6), 2)
    ]
    assert np.any(beyond, axis=0).mean() == pytest.approx(1 / 5, rel=0.1)
    assert 'six backbones that are no different, 1 of 5 would have a pair beyond noise' in text

    def of_groupings(in_common):
        """How often one of twelve rows is beyond noise of the first, and any two are; the spread is that of 17 rows."""
        noise = generator.normal(size=(tables, 17, 3)) * (1 - in_common) ** 0.5
        values = noise + generator.normal(size=(tables, 1, 3)) * in_common**0.5
        limit = tool.FACTOR * values.var(axis=2, ddof=1).mean(axis=1) ** 0.5
        means = values[:, :12].mean(axis=2)
        of_the_first = np.abs(means - means[:, :1]).max(axis=1) > limit
        return of_the_first.mean(), (np.ptp(means, axis=1) > limit).mean()

    assert of_groupings(in_common=0) == pytest.approx((1 / 7, 2 / 5), rel=0.1)
    assert '1 of 7 would have a row beyond noise of the published one, and 2 of 5 would have a pair' in text
    runs = pages.small_runs(ROOT / 'docs/evidence').values()
    rows = [[row['metrics']['mIoU'] for row in pages.finished(seeds)] for seeds in runs]
    in_common = 1 - (tool.spread_beside_seeds(rows) / tool.pooled_spread(rows)) ** 2
    assert of_groupings(in_common)[0] == pytest.approx(1 / 90, rel=0.1)
    assert '1 of 90 tables of groupings that are no different would have a row beyond noise' in text


def test_the_spread_beside_that_of_seeds_is_what_rows_do_not_share(tool):
    shared = [[1.0, 4.0, 2.0], [3.0, 6.0, 4.0]]
    assert tool.spread_beside_seeds(shared) == pytest.approx(0)
    # the first row is 1 higher in seed 0 and 1 lower in seed 1: residuals are half of that, with 2 degrees of freedom
    assert tool.spread_beside_seeds([[2.0, 3.0, 2.0], shared[1]]) == pytest.approx(0.5**0.5)
    assert tool.spread_beside_seeds(shared[:1]) is None
    assert tool.spread_beside_seeds([]) is None


def test_what_cannot_be_judged_is_not_called_noise(tool):
    def row(*values):
        return {'values': values, 'mean': sum(values) / len(values)}

    names = {tool.PUBLISHED: 'ours', 'WindowGrouping': 'windows'}
    published = {tool.PUBLISHED: row(1.0, 2.0, 3.0)}
    few = published | {'WindowGrouping': row(9.0)}
    assert tool.beyond_noise(few, names, 1.0) == 'not known, too few seeds'
    assert tool.beyond_noise({'WindowGrouping': row(9.0, 9.0, 9.0)}, names, 1.0) == 'not known, too few seeds'
    near = published | {'WindowGrouping': row(2.0, 3.0, 4.0)}
    assert tool.beyond_noise(near, names, 1.0) == 'none'
    assert tool.beyond_noise(near, names, 0.4) == 'windows (higher)'
