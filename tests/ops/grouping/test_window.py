import pytest
import torch

from mmsec.ops import cluster_ids
from mmsec.ops.grouping.window import WindowGrouping, window_order
from tests.conftest import tokens_of


def test_windows_are_square_where_sizes_allow():
    grouping = WindowGrouping()(tokens_of(torch.randn(1, 96, 1, 4), (8, 12)), 6)
    expected = torch.arange(6).view(2, 3).repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert torch.equal(cluster_ids(grouping).view(8, 12), expected)


def test_windows_refuse_a_count_that_does_not_fit():
    with pytest.raises(ValueError, match=r'num_clusters must be in \[1, 6\]'):
        window_order(2, 3, 7)
