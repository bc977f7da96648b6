"""How many clusters each block makes."""

import pytest

from mmsec.models.layers.cluster_counts import ClusterCount, cluster_counts, per_stage


def test_clusters_are_counted_or_sized():
    assert [ClusterCount(8).of(n) for n in (1, 8, 100)] == [1, 8, 8]
    assert [ClusterCount(8, is_size=True).of(n) for n in (1, 8, 9, 100)] == [1, 1, 2, 13]


def test_a_number_is_of_all_blocks_and_a_list_of_each():
    assert cluster_counts((4, [3, 2]), None, (2, 2)) == [[(4, False)] * 2, [(3, False), (2, False)]]
    assert cluster_counts(None, 9, (1, 2)) == [[(9, True)], [(9, True)] * 2]
    assert cluster_counts(None, (9, (5, 6)), (1, 2)) == [[(9, True)], [(5, True), (6, True)]]


@pytest.mark.parametrize(
    ('num_clusters', 'cluster_size', 'message'),
    [
        (None, None, 'exclude each other, got num_clusters=None and cluster_size=None'),
        ((1, 1), 9, r'exclude each other, got num_clusters=\(1, 1\) and cluster_size=9'),
        ((1,), None, r'num_clusters must have one value per stage, 2, got \(1,\)'),
        (7, None, 'num_clusters must have one value per stage, 2, got 7'),
        (None, (9, (5,)), r'cluster_size of stage 1 must have one value per block, 2, got \(5,\)'),
        (None, (9, (5, 0)), r'cluster_size must be whole numbers of at least 1, got \(9, \(5, 0\)\)'),
    ],
)
def test_what_does_not_fit_is_named(num_clusters, cluster_size, message):
    with pytest.raises(ValueError, match=message):
        cluster_counts(num_clusters, cluster_size, (1, 2))


def test_a_grouping_is_of_all_stages_or_one_for_each():
    one, other = dict(type='WindowGrouping'), dict(type='RandomGrouping')
    assert list(per_stage(one, 2)) == [one, one]
    assert list(per_stage([one, other], 2)) == [one, other]
    with pytest.raises(ValueError, match='grouping must be a dict or one dict per stage, 3, got 2'):
        per_stage([one, other], 3)
