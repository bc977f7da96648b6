from mmsec.evaluation.clusters import MEASURES
from mmsec.evaluation.figure import analysis_figure


def test_the_figure_has_a_panel_for_each_measure_there_is():
    row = dict(stage=1, **dict.fromkeys(MEASURES, 0.5))
    rows = [row | {'grouping': name} for name in ('head 1', 'windows', 'random')]
    full = analysis_figure(rows, 'a title')
    fewer = analysis_figure([each | {'nmi_instances': None, 'purity_instances': None} for each in rows], 'a title')
    assert full.shape[1:] == fewer.shape[1:] == (1200, 3)
    assert full.shape[0] - fewer.shape[0] == 2 * 220
