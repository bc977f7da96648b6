import numpy as np
from matplotlib.colors import to_rgb

from mmsec.evaluation.clusters import MEASURES
from mmsec.visualization.analysis import analysis_figure

ROWS = [
    dict(stage=stage, grouping=name, **dict.fromkeys(MEASURES, value))
    for stage, heads in ((1, ('head 1',)), (2, ('head 1', 'head 2')))
    for name, value in (*((head, 0.5) for head in heads), ('windows', 0.3), ('random', 0.0))
]


def pixels_of(figure, colour):
    """How many pixels have a colour."""
    return (np.abs(figure - 255 * np.array(to_rgb(colour))).max(-1) < 2).sum()


def test_each_measure_has_a_panel_with_a_dot_for_each_head_and_a_line_for_each_baseline():
    figure = analysis_figure(ROWS, 'a title')
    fewer = analysis_figure([row | {'ami_instances': None, 'purity_instances': None} for row in ROWS], 'a title')
    assert figure.shape[1:] == fewer.shape[1:] == (1200, 3)
    assert figure.shape[0] - fewer.shape[0] == 2 * 220
    without = [row for row in ROWS if row['grouping'] != 'head 2']
    dots = (pixels_of(figure, 'tab:blue') - pixels_of(analysis_figure(without, 'a title'), 'tab:blue')) / len(MEASURES)
    assert 25 < dots < 90  # pixels of one dot in each panel
    for colour in ('tab:orange', 'tab:gray'):
        assert pixels_of(figure, colour) > 1000
        assert pixels_of(fewer, colour) < 0.7 * pixels_of(figure, colour)
