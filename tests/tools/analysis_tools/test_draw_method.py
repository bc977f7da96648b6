"""The figure of the method shows what the grouping does."""

import numpy as np

from tools.analysis_tools.draw_method import CLUSTERS, SIDE, draw


def test_clusters_of_equal_size_follow_the_score():
    _, scored, _, _, attended, back = draw(0).axes
    scores, clusters = (axes.images[-1].get_array() for axes in (scored, back))
    assert [int((clusters == each).sum()) for each in range(CLUSTERS)] == [SIDE**2 // CLUSTERS] * CLUSTERS
    for each in range(1, CLUSTERS):
        assert scores[clusters == each - 1].max() <= scores[clusters == each].min()
    pairs = np.isfinite(np.ma.filled(attended.images[0].get_array().astype(float), np.nan)).sum()
    assert pairs == SIDE**4 // CLUSTERS  # of queries and keys
