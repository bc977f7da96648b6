"""Mergings against outputs measured from public code, and where there is none, against their definitions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmsec.ops.merging.ailurus import peaks_in_space
from mmsec.ops.merging.algm import algm_global, algm_local
from mmsec.ops.merging.atc import agglomerative
from mmsec.ops.merging.cubist import cubist
from mmsec.ops.merging.density_peaks import density_peak_merging
from mmsec.ops.merging.expedit import expedit
from mmsec.ops.merging.mpm import mutual_pairs
from tests.conftest import DATA


def measured(name):
    return {key: torch.from_numpy(value) for key, value in np.load(DATA / f'{name}.npz').items()}


def cosine(a, b):
    return F.cosine_similarity(a, b, dim=0).item()


@pytest.mark.parametrize('together', [False, True])
def test_algm_matches_each_measured_image_alone_and_in_a_batch(together):
    of = measured('algm')
    local = algm_local(of['x'], (8, 8), 0.88, protected=1)
    assert local.num_merged == 50
    for image in (0, 1):
        wanted = {key.removeprefix(f'image{image}_'): value for key, value in of.items() if f'image{image}' in key}
        x, y = of['x'][image : image + 1], wanted['y']
        if together:  # the other image of the batch has more tokens, or fewer
            merging, count = local, y.shape[1]
            y = F.pad(y, (0, 0, 0, local.num_merged - count), value=1.0).expand(2, -1, -1)
        else:
            merging = algm_local(x, (8, 8), 0.88, protected=1)
        row = image if together else 0
        count = wanted['x1'].shape[1]
        merged = merging.merge(of['x'] if together else x)[row, :count]
        torch.testing.assert_close(merged, wanted['x1'][0], atol=1e-6, rtol=0)
        assert torch.equal(merging.assignment[row], wanted['assignment1'][0])
        assert torch.equal(merging.sizes[row, :count], wanted['sizes1'][0])
        both = merging.then(later := algm_global(y, 5, merging.sizes, protected=1))
        assert torch.equal(both.assignment[row], wanted['assignment2'][0])
        count = wanted['x2'].shape[1]
        merged = later.merge(y, merging.sizes)[row, :count]
        torch.testing.assert_close(merged, wanted['x2'][0], atol=1e-6, rtol=0)
        assert torch.equal(both.sizes[row, :count], wanted['sizes2'][0])


@pytest.mark.parametrize('protected', [0, 1, 2])
def test_windows_that_the_map_cuts_off_do_not_merge(protected):
    x = torch.ones(1, protected + 5 * 7, 4)
    assignment = algm_local(x, (5, 7), 0.9, protected=protected).assignment[0, protected:] - protected
    wanted = torch.tensor(
        [
            [0, 0, 1, 1, 2, 2, 6],
            [0, 0, 1, 1, 2, 2, 7],
            [3, 3, 4, 4, 5, 5, 8],
            [3, 3, 4, 4, 5, 5, 9],
            [10, 11, 12, 13, 14, 15, 16],
        ]
    )
    assert torch.equal(assignment.view(5, 7), wanted)


@pytest.mark.parametrize('linkage', ['single', 'complete', 'average'])
@pytest.mark.parametrize('count', [36, 24, 12])
def test_atc_has_the_clusters_and_means_of_the_public_code(linkage, count):
    of = measured('atc')
    metric = torch.cat([torch.randn(2, 1, 12), of['metric']], dim=1)
    assignment = agglomerative(metric, count, linkage, protected=1).assignment
    assert (assignment[:, 0] == 0).all()
    merging = agglomerative(of['metric'], count, linkage)
    assert torch.equal(assignment[:, 1:] - 1, merging.assignment)
    merged, sizes = merging.merge(of['x'], of['sizes']), merging.sum(of['sizes'][..., None])[..., 0]
    for image, labels in enumerate(of[f'{linkage}_{count}_labels']):
        first = list(dict.fromkeys(labels.tolist()))  # clusters are numbered by their first tokens
        assert torch.equal(torch.tensor(first)[merging.assignment[image]], labels)
        torch.testing.assert_close(merged[image], of[f'{linkage}_{count}_merged'][image, first], atol=1e-5, rtol=0)
        torch.testing.assert_close(sizes[image], of[f'{linkage}_{count}_sizes'][image, first])


@pytest.mark.parametrize('protected', [0, 1, 3])
@pytest.mark.parametrize('count', [1, 2, 3, 24])
def test_mutual_pairs_are_each_others_nearest_and_all_of_them_merge(count, protected):
    x = torch.randn(3, protected + count, 5, dtype=torch.float64)
    sizes = torch.ones(3, protected + count)
    sizes[1:, protected + 1 :: 5] = 0
    assignment = mutual_pairs(x, sizes, protected).assignment
    for image in range(3):
        real = [i for i in range(protected, protected + count) if sizes[image, i]]
        nearest = {
            i: max((j for j in real if j != i), key=lambda j: cosine(x[image, i], x[image, j]), default=None)
            for i in real
        }
        first = {i: min(i, j) if j is not None and nearest[j] == i else i for i, j in nearest.items()}
        kept = [*range(protected), *sorted(set(first.values()))]
        assert assignment[image, :protected].tolist() == kept[:protected]
        assert assignment[image, real].tolist() == [kept.index(first[i]) for i in real]


def merged_line(x, r, similarity):
    """Where each token of a line goes, by the definition."""
    alike = cosine if similarity == 'cosine' else lambda a, b: -(a - b).square().sum().item()
    choices = []
    for odd in range(1, len(x), 2):
        beside = [i for i in (odd - 1, odd + 1) if i < len(x)]
        chosen = max(beside, key=lambda i: alike(x[odd], x[i]))
        choices.append((-alike(x[odd], x[chosen]), odd, chosen))
    into = {odd: chosen for _, odd, chosen in sorted(choices)[:r]}
    kept = [i for i in range(len(x)) if i not in into]
    return [kept.index(into.get(i, i)) for i in range(len(x))]


def largest(x):
    return x.gather(0, x.abs().argmax(0)[None])[0]


@pytest.mark.parametrize('similarity', ['cosine', 'euclidean'])
@pytest.mark.parametrize(
    ('grid', 'r', 'protected'), [((6, 8), (3, 4), 1), ((5, 7), (2, 3), 0), ((1, 4), (0, 1), 2), ((5, 1), (2, 0), 0)]
)
def test_cubist_merges_each_row_and_then_each_column_of_what_is_left(grid, r, protected, similarity):
    height, width = grid
    x = torch.randn(2, protected + height * width, 6, dtype=torch.float64)
    merging = cubist(x, grid, r, similarity, protected)
    merged = merging.merge(x)
    for image in range(2):
        rows = x[image, protected:].view(height, width, 6)
        column = torch.tensor([merged_line(row, r[1], similarity) for row in rows])
        left = [[largest(row[to == i]) for i in range(width - r[1])] for row, to in zip(rows, column, strict=True)]
        row = torch.tensor([merged_line([line[i] for line in left], r[0], similarity) for i in range(width - r[1])])
        wanted = row.T.gather(1, column) * (width - r[1]) + column
        assert torch.equal(merging.assignment[image, protected:] - protected, wanted.flatten())
        for i, token in enumerate(merged[image]):
            assert torch.equal(token, largest(x[image, merging.assignment[image] == i]))


def test_of_equal_magnitudes_the_token_that_others_join_wins():
    x = torch.tensor([[2.0, 9], [-2, 9], [2, 1], [-2, 1]]).view(1, 4, 2)
    merging = cubist(x, (1, 4), (0, 2))
    assert merging.assignment.tolist() == [[0, 0, 1, 1]]
    assert merging.merge(x).tolist() == [[[2, 9], [2, 1]]]
    assert cubist(x.flip(1), (1, 4), (0, 2)).merge(x.flip(1)).tolist() == [[[-2, 1], [-2, 9]]]


def test_peaks_in_space_without_space_are_density_peaks_bit_for_bit():
    x = torch.randn(2, 9, 11, 16)
    wanted = density_peak_merging(x, [30])[0].assignment
    assert torch.equal(peaks_in_space(x, 30, alpha=0).assignment, wanted)
    assert not torch.equal(peaks_in_space(x, 30, alpha=0.2).assignment, wanted)


def test_peaks_in_space_go_by_the_distance_of_the_definition():
    x = torch.randn(1, 6, 8, 5, dtype=torch.float64)
    centers = peaks_in_space(x, 12, alpha=0.3)
    z = x.flatten(0, 2)
    place = torch.cartesian_prod(torch.arange(6.0), torch.arange(8.0)).double()
    features = (z[:, None] - z).square().sum(-1)
    distances = 0.4 * (0.7 * features / features.mean() + 0.3 * (place[:, None] - place).square().sum(-1) / (48 / 12))
    sparsity = distances.sort(dim=1).values[:, :5].mean(1)
    separation = distances.masked_fill(sparsity >= sparsity[:, None], torch.inf).amin(1)
    order = (separation.log() / 2 - sparsity).argsort(descending=True)[:12]
    wanted = distances[:, order].argmin(1)
    assert torch.equal(centers.assignment[0], wanted)


@pytest.mark.parametrize('scale', [0.1, 1, 10])
@pytest.mark.parametrize('offset', [0, 3])
def test_what_goes_by_distances_does_not_depend_on_the_scale_of_the_features(scale, offset):
    # Patches of a few kinds, with noise, that lie 1.5 apart as those of DINOv2 do.
    kinds = torch.randn(6, 32, dtype=torch.float64).repeat_interleave(4, 0).repeat(12, 1)  # (288, 32)
    x = kinds + 0.3 * torch.randn(288, 32, dtype=torch.float64)
    x = 1.5 * x / (2 * x.var(dim=0, correction=0).sum()).sqrt()
    tokens = scale * (x + offset)[None]
    merging, unscaled = expedit(tokens, (12, 24), (6, 12)), expedit(x[None], (12, 24), (6, 12))
    torch.testing.assert_close(merging.shares.weights, unscaled.shares.weights)
    torch.testing.assert_close(merging.rebuild.weights, unscaled.rebuild.weights)
    back = merging.unmerge(merging.merge(tokens)) - scale * offset
    assert F.cosine_similarity(back, tokens - scale * offset, dim=-1).mean() > 0.9
    peaks, unscaled = (peaks_in_space(each.view(1, 12, 24, 32), 72, 0.05) for each in (tokens, x))
    assert torch.equal(peaks.assignment, unscaled.assignment)
