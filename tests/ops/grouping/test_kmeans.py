import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from mmsec.ops import cluster_ids, cluster_sizes
from mmsec.ops.grouping import kmeans
from tests.conftest import build_grouping, needs_operators, tokens_of


def plain_balanced(x, capacity, num_iters):
    """Clusters of a list of tokens (n, d), as lists of places, token by token."""
    count, num_centers = sum(capacity), len(capacity)
    samples = [x[i * count // (32 * num_centers)] for i in range(32 * num_centers)]
    centers = [samples[32 * k + 16] for k in range(num_centers)]
    present = [k for k in range(num_centers) if capacity[k]]
    for _ in range(num_iters):
        nearest = [max(present, key=lambda k, token=token: (token @ centers[k]).item()) for token in samples]
        for k in present:
            mine = [token for token, its in zip(samples, nearest, strict=True) if its == k]
            if mine:
                centers[k] = F.normalize(torch.stack(mine).sum(0), dim=0)
    wishes = []
    for i in range(count):
        first, *others = sorted(present, key=lambda k, i=i: -(x[i] @ centers[k]).item())
        loss = (x[i] @ centers[first] - x[i] @ centers[others[0]]).item() if others else 2.0
        wishes.append((first, -loss, i))
    clusters, moving = [[] for _ in capacity], []
    for k, _, i in sorted(wishes):
        (clusters[k] if len(clusters[k]) < capacity[k] else moving).append(i)
    for cluster, size in zip(clusters, capacity, strict=True):
        while len(cluster) < size:
            cluster.append(moving.pop(0))
    return clusters


def plain_kmeans(x, num_clusters, num_iters):
    """Clusters of the tokens (N, d) of one image and head, as lists of places."""
    x = F.normalize(x, dim=-1)
    long, short, length = cluster_sizes(len(x), num_clusters)
    sizes = [length + 1] * long + [length] * short
    if num_clusters <= 32:
        return plain_balanced(x, sizes, num_iters)
    num_groups = -(-num_clusters // 32)
    long, short, length = cluster_sizes(num_clusters, num_groups)
    dealt = [length + 1] * long + [length] * short
    groups = [sizes[sum(dealt[:g]) : sum(dealt[: g + 1])] for g in range(num_groups)]
    clusters = []
    for group, capacity in zip(plain_balanced(x, [sum(each) for each in groups], num_iters), groups, strict=True):
        members = torch.tensor(group)
        capacity = capacity + [0] * (dealt[0] - len(capacity))  # evenly spaced tokens are as many in every group
        clusters += [members[within].tolist() for within in plain_balanced(x[members], capacity, num_iters)]
    return clusters


@pytest.mark.parametrize(
    ('num_tokens', 'num_clusters', 'num_iters'),
    [(90, 4, 3), (61, 7, 1), (33, 32, 1), (20, 20, 1), (150, 33, 1), (131, 65, 2)],
)
def test_equals_a_plain_computation(num_tokens, num_clusters, num_iters):
    key = torch.randn(1, num_tokens, 2, 4, dtype=torch.float64)
    order = build_grouping(dict(type='KMeansGrouping', num_iters=num_iters))(tokens_of(key), num_clusters).order
    for head in range(2):
        wanted = plain_kmeans(key[0, :, head], num_clusters, num_iters)
        assert order[0, head].tolist() == [token for cluster in wanted for token in cluster]


def test_a_centre_that_no_token_is_nearest_to_stays_where_it_is():
    x = F.normalize(torch.rand(1, 9, 4), dim=-1)
    centers = torch.stack([x[:, 0], -x[:, 0]], dim=1)
    assert torch.equal(kmeans.lloyd(x, centers, 2)[:, 1], centers[:, 1])


def test_clusters_are_nearly_as_compact_as_those_of_plain_kmeans():
    key = torch.randn(12, 16)[torch.randint(12, (1, 600))][:, :, None] + 0.5 * torch.randn(1, 600, 1, 16)
    x = F.normalize(key[0, :, 0], dim=-1)

    def compactness(ids):
        members = F.one_hot(ids, 12).float()
        return (x * F.normalize(members.T @ x, dim=-1)[ids]).sum(-1).mean()

    plain = kmeans.cosines(x[None], kmeans.lloyd(x[None], x[None, ::50], 10)).argmax(-1)[0]
    found = cluster_ids(build_grouping(dict(type='KMeansGrouping'))(tokens_of(key), 12))[0, 0]
    chance = compactness(found[torch.randperm(600)])
    assert compactness(found) - chance > 0.75 * (compactness(plain) - chance)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def test_autocast_changes_nothing(dtype):
    method, tokens = build_grouping(dict(type='KMeansGrouping')), tokens_of(torch.randn(1, 200, 2, 16).to(dtype))
    with torch.autocast('cpu', torch.bfloat16):
        order = method(tokens, 9).order
    assert torch.equal(order, method(tokens, 9).order)
    assert torch.equal(order, method(tokens_of(tokens.key.float()), 9).order)


def test_no_more_than_one_number_for_each_token_and_cluster_is_held(monkeypatch):
    sizes = []
    cosines = kmeans.cosines

    def record(*args):
        out = cosines(*args)
        sizes.append(out.numel())
        return out

    monkeypatch.setattr(kmeans, 'cosines', record)
    build_grouping(dict(type='KMeansGrouping'))(tokens_of(torch.randn(1, 5000, 1, 8)), 200)
    assert max(sizes) < 5000 * 200 / 4  # two levels need less


def test_how_unequal_plain_kmeans_is():
    # The tokens that centres start at, 0, 25, 50 and 75, are one of each bunch.
    bunch = torch.zeros(100, dtype=torch.int64)
    bunch[25:35], bunch[50:60], bunch[75:85] = 1, 2, 3
    key = (torch.eye(4)[bunch] + 0.01 * torch.randn(2, 3, 100, 4)).transpose(1, 2)
    torch.testing.assert_close(kmeans.largest_over_mean(key, 4), torch.full((2, 3), 70 / 25))
    torch.testing.assert_close(kmeans.largest_over_mean(torch.ones(1, 12, 1, 4), 3), torch.tensor([[3.0]]))
    torch.testing.assert_close(kmeans.largest_over_mean(torch.eye(4)[None, :, None], 4), torch.tensor([[1.0]]))


@needs_operators
@pytest.mark.parametrize(('num_tokens', 'num_clusters', 'num_iters'), [(90, 4, 1), (200, 33, 3), (131, 65, 2)])
def test_multiply_adds_are_those_of_its_products(num_tokens, num_clusters, num_iters):
    key = torch.randn(2, num_tokens, 3, 4)
    with FlopCounterMode(display=False) as counter:
        kmeans.kmeans_order(key, num_clusters, num_iters)
    counted = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        kmeans.kmeans_order._init_fn(key, num_clusters, num_iters)
    assert counted == counter.get_total_flops() > 0
