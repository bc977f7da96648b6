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


def test_curves_say_which_line_is_which_seed(tool, tmp_path, monkeypatch):
    drawn, save = [], tool.Figure.savefig
    monkeypatch.setattr(tool.Figure, 'savefig', lambda figure, path: drawn.append(figure) or save(figure, path))
    run = {'loss': {'step': [50, 100], 'value': [2.0, 1.5]}}

    def legend(panels):
        tool.draw_curves(panels, tmp_path / 'curves.png')
        return [text.get_text() for text in drawn[-1].legends[0].get_texts()]

    assert legend({'nuclei': {'a': [run]}, 'camvid': {'b': [run]}}) == ['a', 'b']
    assert legend({'nuclei': {'a': [run]}, 'camvid': {'a': [run, run]}}) == ['a', 'first seed', 'second seed']
    assert [line.get_linestyle() for line in drawn[-1].axes[1].lines] == ['-', '--']
    with pytest.raises(ValueError, match='a: 4 seeds are more than the 3 line styles'):
        legend({'nuclei': {'a': [run] * 4}})
