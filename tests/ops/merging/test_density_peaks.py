from importlib import import_module
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmsec import compat
from mmsec.ops.merging.density_peaks import deal_centers, density_peak_merging, region_grid
from tests.conftest import needs_operators
from tests.ops.merging.largest import Largest

module = import_module('mmsec.ops.merging.density_peaks')


@pytest.fixture(scope='module')
def measured():
    with np.load(Path(__file__).parents[2] / 'data' / 'clustr_official_small.npz') as file:
        return {name: torch.from_numpy(file[name]) for name in file if not name.startswith(('image', 'map'))}


def plain(x, num_clusters):
    """The definition, with the whole matrix of distances; (B, H, W, C) -> (B, N) clusters of each scale."""
    x = x.double().flatten(1, 2)
    batch, num_tokens, channels = x.shape
    distances = (x[:, :, None] - x[:, None]).square().sum(-1).sqrt() / channels**0.5  # (B, N, N)
    nearest = distances.sort(-1).values[..., :5]
    density = (-nearest.square().mean(-1)).exp()
    raster = torch.arange(num_tokens)
    is_denser = density[:, None] > density[..., None]
    is_denser |= (density[:, None] == density[..., None]) & (raster < raster[:, None])
    largest = distances.flatten(1).amax(-1)[:, None, None]
    separation = torch.where(is_denser, distances, largest).amin(-1)
    order = (density * separation).argsort(dim=-1, descending=True, stable=True)
    assignments = []
    for count in num_clusters:
        centers = order[:, :count]
        assignment = distances.gather(2, centers[:, None].expand(-1, num_tokens, -1)).argmin(-1)
        assignments.append(assignment.scatter(1, centers, raster[:count].expand(batch, -1)))
    return assignments


def assignments(*args):
    return [merging.assignment for merging in density_peak_merging(*args)]


def assert_equal(got, wanted):
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert torch.equal(a, b)


def tokens(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
def test_clusters_are_those_of_the_public_code(measured, dtype):
    x = measured['tokens'].view(3, 6, 10, 16).to(dtype)
    assert_equal(assignments(x, [3, 12]), [measured['clusters_3'], measured['clusters_12']])
    assert_equal(assignments(x, [12]), [measured['clusters_12']])


def test_weighted_sums_are_the_cluster_tokens_of_the_public_code(measured):
    x, weight = measured['tokens'], measured['token_weight']
    for merging in density_peak_merging(x.view(3, 6, 10, 16), [3, 12]):
        merged = merging.sum(weight * x) / (merging.sum(weight) + 1e-6)
        torch.testing.assert_close(merged, measured[f'merged_{merging.num_merged}'], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    'size', [(1, 1), (1, 2), (2, 2), (1, 5), (2, 3), (7, 9), (8, 8), (13, 5), (1, 129), (26, 25), (33, 40)]
)
def test_clusters_are_those_of_the_definition(size):
    num_tokens = size[0] * size[1]
    counts = sorted({1, max(1, num_tokens // 16), max(1, num_tokens // 3), num_tokens})
    x = tokens(2, *size, 8, dtype=torch.float64)
    assert_equal(assignments(x, counts), plain(x, counts))


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('kinds', [1, 3, 30])
def test_of_equal_tokens_the_first_counts(kinds, dtype):
    x = tokens(kinds, 4, dtype=dtype)  # many tokens of few kinds, as in the padding of an image
    x = x[torch.arange(2 * 17 * 25).mul(37).remainder(kinds)].view(2, 17, 25, 4)
    counts = [2, 25, 100]
    assert_equal(assignments(x, counts), plain(x, counts))


def test_tokens_far_from_the_origin_are_told_apart_in_float32():
    x = (tokens(1, 20, 20, 16) * 1024).round() / 1024  # still exact beside 256
    assert_equal(assignments(x + 256, [6, 25]), plain(x, [6, 25]))


def test_tokens_far_from_each_other_have_a_density():
    x = tokens(1, 10, 12, 16, dtype=torch.float64)
    x[:, 5:] += 3
    far = (x * 1e3).float()  # exp(-distance^2) is 0 even in float64
    centers = density_peak_merging(far, [2])[0].assignment.view(10, 12)
    assert centers[:5].unique().numel() == centers[5:].unique().numel() == 1
    assert centers[0, 0] != centers[9, 0]


def clouds(num_tokens):
    """(N, 16) float32 tokens in two tight clouds; products cannot tell who is nearest in a cloud."""
    return tokens(num_tokens, 16, seed=1) * 1e-3 + 10 * torch.arange(num_tokens).remainder(2)[:, None]


def test_distances_of_near_tokens_are_exact_and_a_token_is_near_itself():
    x = clouds(300)[None]
    index, distances = module._nearest_tokens(x, 5)
    assert (index == torch.arange(300)[:, None]).any(-1).all()
    wanted = (x[0].double()[index] - x.double()[..., None, :]).square().sum(-1)
    torch.testing.assert_close(distances, wanted.float(), rtol=1e-5, atol=0)


def test_how_many_peaks_the_other_images_have_changes_nothing():
    few = clouds(300)
    many = tokens(60, 16).repeat(5, 1) + 0.1 * tokens(300, 16)  # 60 groups of 5 tokens have a peak each
    x = torch.stack([few, many]).view(2, 20, 15, 16)
    assert_equal([both[:1] for both in assignments(x, [20, 200])], assignments(x[:1], [20, 200]))


@pytest.mark.parametrize('size', [(9, 11), (40, 41)])  # several images and a part of one in a block
@pytest.mark.parametrize('region_size', [None, 60])
def test_an_image_does_not_depend_on_its_batch(size, region_size):
    x = tokens(5, *size, 16)
    together = assignments(x, [30, 90], region_size)
    alone = [assignments(image, [30, 90], region_size) for image in x.split(1)]
    assert_equal(together, [torch.cat(parts) for parts in zip(*alone, strict=True)])


@pytest.mark.parametrize('region_size', [391, 400, 10**9])
def test_one_region_is_the_exact_result_bit_for_bit(region_size):
    x = tokens(2, 17, 23, 8)
    assert_equal(assignments(x, [6, 24], region_size), assignments(x, [6, 24]))


@pytest.mark.parametrize(('size', 'region_size'), [((17, 23), 100), ((12, 12), 36), ((1, 50), 20), ((30, 2), 7)])
def test_regions_are_clustered_one_by_one(size, region_size):
    x = tokens(2, *size, 8, dtype=torch.float64)
    counts = [size[0] * size[1] // 4, size[0] * size[1]]
    rows, columns = region_grid(*size, region_size)
    assert rows * columns > 1
    places = torch.arange(size[0] * size[1]).view(size)
    regions = [part for band in places.tensor_split(rows) for part in band.tensor_split(columns, 1)]
    dealt = [deal_centers(count, [region.numel() for region in regions]) for count in counts]
    wanted = [torch.full((2, size[0] * size[1]), -1) for _ in counts]
    first = [0, 0]
    for i, region in enumerate(regions):
        part = x.flatten(1, 2)[:, region.flatten()].view(2, *region.shape, 8)
        own = [centers[i] for centers in dealt]
        for scale, clusters in enumerate(plain(part, own)):
            wanted[scale][:, region.flatten()] = clusters + first[scale]
            first[scale] += own[scale]
    assert first == counts
    assert_equal(assignments(x, counts, region_size), wanted)


@pytest.mark.parametrize(
    ('size', 'region_size', 'grid'),
    [
        ((56, 56), None, (1, 1)),
        ((56, 56), 3136, (1, 1)),
        ((1, 3136), 3136, (1, 1)),
        ((57, 56), 3136, (2, 1)),
        ((56, 57), 3136, (1, 2)),
        ((200, 336), 3136, (4, 6)),
        ((10000, 3), 3136, (10, 1)),
        ((4, 5), 1, (4, 5)),
    ],
)
def test_regions_are_as_square_as_their_size_allows(size, region_size, grid):
    assert region_grid(*size, region_size) == grid


@pytest.mark.parametrize('region_size', [1, 2, 7, 49, 300])
def test_no_region_is_too_large_and_none_could_be_saved(region_size):
    def largest(size, rows, columns):
        return -(-size[0] // rows) * -(-size[1] // columns)

    for size in product((1, 2, 5, 16, 37, 100), repeat=2):
        rows, columns = region_grid(*size, region_size)
        assert largest(size, rows, columns) <= region_size
        assert rows == 1 or largest(size, rows - 1, columns) > region_size
        assert columns == 1 or largest(size, rows, columns - 1) > region_size


@pytest.mark.parametrize('reduction', [2, 4, 8])
def test_regions_of_four_times_a_cluster_have_a_centre_each(reduction):
    for size in product((*range(1, 40), 64, 101, 336), repeat=2):
        num_clusters = max(1, size[0] * size[1] // reduction**2)
        rows, columns = region_grid(*size, 4 * reduction**2)
        assert rows * columns <= num_clusters, size


@pytest.mark.parametrize(
    ('num_clusters', 'sizes', 'centers'),
    [
        (10, [20, 20, 10], [4, 4, 2]),
        (7, [10, 10, 10], [3, 2, 2]),  # remainders are equal: the first region
        (7, [9, 10, 11], [2, 2, 3]),
        (30, [9, 10, 11], [9, 10, 11]),
        (3, [50, 49, 1], [1, 1, 1]),  # the last region would have none
        (1, [5], [1]),
    ],
)
def test_centres_are_dealt_in_proportion_and_each_region_has_one(num_clusters, sizes, centers):
    assert deal_centers(num_clusters, sizes) == centers


@pytest.mark.parametrize(
    ('counts', 'region_size', 'message'),
    [
        ([0], None, r'num_clusters must be in \[1, 20\] for 20 tokens, got 0'),
        ([4, 21], None, r'num_clusters must be in \[1, 20\] for 20 tokens, got 21'),
        ([4], 0, 'region_size must be at least 1 token, got 0'),
        ([3], 4, '6 regions of at most 4 tokens are too many for 3 clusters: give region_size at least .* 28'),
    ],
)
def test_counts_and_regions_that_do_not_fit_are_refused(counts, region_size, message):
    with pytest.raises(ValueError, match=message):
        density_peak_merging(tokens(1, 4, 5, 3), counts, region_size)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_distances_are_float32_whatever_the_tokens_and_autocast(dtype):
    x = tokens(2, 12, 13, 16, dtype=dtype)
    with torch.autocast('cpu', torch.bfloat16):
        assert_equal(assignments(x, [9, 36]), plain(x, [9, 36]))


def test_products_are_not_tf32_and_the_switch_is_put_back(monkeypatch):
    # A CPU has no TF32: this looks at the switch, and at nothing that it changes.
    matmul, seen = torch.backends.cuda.matmul, []
    monkeypatch.setattr(matmul, 'allow_tf32', True)
    switch, full = compat.float32_switch()
    cluster = module._cluster
    monkeypatch.setattr(module, '_cluster', lambda *args: seen.append(getattr(matmul, switch)) or cluster(*args))
    density_peak_merging(tokens(1, 4, 5, 3), [2])
    assert seen == [full]
    assert matmul.allow_tf32
    assert torch.get_float32_matmul_precision() == 'high'


def test_no_gradient_flows_through_the_clusters_but_through_what_they_merge():
    x = tokens(2, 5, 6, 4, dtype=torch.float64).requires_grad_()
    weight = tokens(2, 30, 1, dtype=torch.float64, seed=1).requires_grad_()
    (merging,) = density_peak_merging(x, [7])
    assert not merging.assignment.requires_grad

    def merged(x, weight):
        total = merging.sum(weight.exp() * x.flatten(1, 2))
        return total / (merging.sum(weight.exp()) + 1e-6)

    assert torch.autograd.gradcheck(merged, (x, weight))


def test_tokens_that_are_no_numbers_still_get_clusters():
    x = tokens(2, 20, 40, 8)
    x[0, 3, 4] = torch.nan
    x[1] = torch.inf
    for merging in density_peak_merging(x, [12, 700], 500):
        assert merging.assignment.min() >= 0
        assert merging.assignment.max() < merging.num_merged


def test_the_matrix_of_distances_never_exists():
    num_tokens = 6400
    with Largest() as largest:
        module._cluster(tokens(1, num_tokens, 8), [100, 400])
    assert largest.entries <= 2**20 < num_tokens**2 / 32


@needs_operators
def test_the_operator_is_one_node_for_the_compiler():
    x = tokens(2, 9, 10, 4)
    torch.library.opcheck(module._density_peaks, (x, x.new_empty(0, 3, 12), 50))

    def function(x):
        num_tokens = x.shape[1] * x.shape[2]
        return [merging.assignment for merging in density_peak_merging(x, (num_tokens // 16, num_tokens), 50)]

    compiled = torch.compile(function, backend='aot_eager', fullgraph=True, dynamic=True)
    for size in ((9, 10), (12, 7)):
        with torch.compiler.set_stance('default' if size == (9, 10) else 'fail_on_recompile'):
            assert_equal(compiled(tokens(2, *size, 4)), function(tokens(2, *size, 4)))


@needs_operators
@pytest.mark.parametrize(('region_size', 'regions'), [(None, [1024]), (300, [256] * 4)])
def test_the_counter_of_operations_sees_all_products_but_those_of_peaks(region_size, regions):
    x, num_clusters = torch.randn(2, 32, 32, 16), [256, 512]  # runs of 64 centres, which are not filled up
    with FlopCounterMode(display=False) as counter:
        density_peak_merging(x, num_clusters, region_size)
    counted = counter.get_total_flops()
    pairs = sum(n**2 + sum((n - k // len(regions)) * k // len(regions) for k in num_clusters) for n in regions)
    assert counted == 2 * 2 * pairs * 16
    with FlopCounterMode(display=False) as counter:  # what is computed inside, region by region
        for tokens in x.flatten(1, 2).split(regions, dim=1):
            module._cluster(tokens, [k // len(regions) for k in num_clusters])
    assert counted < counter.get_total_flops() < 1.3 * counted
