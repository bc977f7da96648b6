"""What the figures of docs/evidence.md draw; test_evidence_pages.py draws them."""

import pytest

from tests.conftest import ROOT


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools/analysis_tools'))
    import evidence_figures

    return evidence_figures


def test_a_name_has_one_colour_and_no_name_is_left_out(tool):
    found = tool.styles(['a', 'b', 'a', 'c'])
    assert list(found) == ['a', 'b', 'c']
    assert len(set(found.values())) == 3
    with pytest.raises(ValueError, match='9 names are more than the 8 colours'):
        tool.styles(map(str, range(9)))
