import pytest
import torch

from mmsec.ops import cluster_ids, cluster_sizes
from mmsec.ops.grouping.window import window_order
from tests.conftest import build_grouping, tokens_of


def test_windows_refuse_a_count_that_does_not_fit():
    with pytest.raises(ValueError, match=r'num_clusters must be in \[1, 6\]'):
        window_order(2, 3, 7)


def plain_windows(height, width, num_clusters, down=0, right=0):
    """Tokens window after window: bands of rows, their columns one after the other, cut into runs."""
    num_tokens = height * width
    long, short, length = cluster_sizes(num_tokens, num_clusters)
    sizes = [length + 1] * long + [length] * short
    num_bands = max(1, min(num_clusters, round((num_clusters * height / width) ** 0.5)))
    long, short, length = cluster_sizes(num_clusters, num_bands)
    windows = [length + 1] * long + [length] * short  # of each band
    ends = [sum(sizes[: sum(windows[: band + 1])]) for band in range(num_bands)]
    seen = {}  # where a token stands in the map that is moved up and left
    for token in range(num_tokens):
        row, column = (token // width - down) % height, (token % width - right) % width
        band = sum(end <= row * width + column for end in ends)
        seen[token] = (band, column, row)
    return sorted(range(num_tokens), key=seen.__getitem__)


@pytest.mark.parametrize(
    ('height', 'width', 'num_clusters'),
    [(8, 12, 6), (7, 9, 5), (1, 13, 3), (20, 3, 7), (4, 4, 16), (6, 5, 20), (5, 5, 1)],
)
def test_equals_a_plain_computation(height, width, num_clusters):
    assert window_order(height, width, num_clusters).tolist() == plain_windows(height, width, num_clusters)
    num_bands = max(1, min(num_clusters, round((num_clusters * height / width) ** 0.5)))
    down, right = height // (2 * num_bands), width * num_bands // (2 * num_clusters)
    wanted = plain_windows(height, width, num_clusters, down, right)
    assert window_order(height, width, num_clusters, shifted=True).tolist() == wanted


def test_shifted_windows_lie_half_a_window_further_and_wrap_around():
    tokens = tokens_of(torch.randn(1, 96, 1, 4), (8, 12))
    windows = torch.arange(6).view(2, 3).repeat_interleave(4, 0).repeat_interleave(4, 1)
    for block in range(4):
        method = build_grouping(dict(type='WindowGrouping', shift=True), block)
        wanted = windows.roll((2, 2), (0, 1)) if block % 2 else windows
        assert torch.equal(cluster_ids(method(tokens, 6)).view(8, 12), wanted)
