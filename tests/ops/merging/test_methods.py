from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmsec.ops.merging import MERGINGS, MergingMethod
from mmsec.ops.merging.ailurus import AiluRus
from mmsec.ops.merging.algm import ALGM
from mmsec.ops.merging.atc import ATC
from mmsec.ops.merging.cubist import CubistMerge
from mmsec.ops.merging.expedit import Expedit, expedit
from mmsec.ops.merging.matching import BLOCK
from mmsec.ops.merging.mpm import MPM
from mmsec.ops.merging.pitome import PiToMe, pitome
from mmsec.ops.merging.tome import ToMe, tome
from mmsec.ops.merging.tomesd import ToMeSD, tomesd
from tests.ops.merging.largest import Largest

DATA = Path(__file__).parents[2] / 'data'
METHODS = {
    'ToMe': ToMe(5),
    'PiToMe bsm': PiToMe(0.7, 'deit'),
    'PiToMe pitome': PiToMe(0.7, 'mae'),
    'ToMeSD': ToMeSD(0.4),
    'Expedit': Expedit(after_block=1, size=(4, 5)),
    'ALGM windows': ALGM(threshold=-0.9),
    'ALGM pairs': ALGM((1, 3)),
    'MPM': MPM((0,)),
    'CubistMerge': CubistMerge(after_block=0, r=0.3),
    'AiluRus': AiluRus(after_block=1),
    'ATC': ATC(layers=(0,)),
}
DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU'))]
FEWER_PAIRS = ['ALGM windows', 'ALGM pairs', 'MPM', 'CubistMerge', 'AiluRus']
HARD = [name for name in METHODS if name != 'Expedit']


@pytest.fixture(scope='module')
def measured():
    return {name: torch.from_numpy(value) for name, value in np.load(DATA / 'vit_merge_official.npz').items()}


def sources(merging):
    """(B, T', T): which tokens are in each merged one."""
    return F.one_hot(merging.assignment, merging.num_merged).mT


def in_first_block(name, features, grid, protected=1):
    """In the first block that it merges in, but for the pairs of ALGM, which come after its windows."""
    return METHODS[name](features, layer=3 if name == 'ALGM pairs' else 0, depth=5, grid=grid, protected=protected)


def test_tome_matches_the_measured_matching(measured):
    merging = tome(measured['metric'], 10, protected=1)
    torch.testing.assert_close(merging.merge(measured['values']), measured['bsm_values'], atol=1e-6, rtol=0)
    assert torch.equal(merging.sizes.double(), measured['bsm_size'][..., 0])
    unmerged = merging.unmerge(measured['bsm_values'])
    torch.testing.assert_close(unmerged, measured['bsm_unmerged'], atol=1e-6, rtol=0)


@pytest.mark.parametrize('mode', ['pitome', 'bsm'])
def test_pitome_matches_the_measured_matching(measured, mode):
    name = 'pitome' if mode == 'pitome' else 'pitome_bsm'
    merging = pitome(measured['metric'], 0.75, 0.4, mode, protected=1)
    torch.testing.assert_close(merging.merge(measured['values']), measured[f'{name}_values'], atol=1e-6, rtol=0)
    assert torch.equal(merging.sizes.double(), measured[f'{name}_sizes'][..., 0])
    assert torch.equal(sources(merging), measured[f'{name}_sources'].long())


@pytest.mark.parametrize('ratio', [0.0, 0.3, 0.75])
@pytest.mark.parametrize(('height', 'width', 'protected'), [(6, 8, 0), (5, 7, 1), (1, 3, 2), (3, 1, 5)])
def test_tomesd_keeps_the_first_token_of_each_cell_and_merges_the_most_similar_others(height, width, protected, ratio):
    metric = torch.randn(2, protected + height * width, 6, dtype=torch.float64)
    merging = tomesd(metric, (height, width), ratio, 2, protected)
    grid = [(y, x) for y in range(height) for x in range(width)]
    stays = [protected + i for i, (y, x) in enumerate(grid) if y % 2 == x % 2 == 0]
    others = [protected + i for i, (y, x) in enumerate(grid) if not y % 2 == x % 2 == 0]
    r = min(int(ratio * height * width), len(others))
    assert merging.num_merged == protected + height * width - r
    unit = F.normalize(metric, dim=-1)
    for image in range(2):
        similarity = unit[image, others] @ unit[image, stays].T
        chosen = sorted(range(len(others)), key=lambda i: -similarity[i].max())[:r]
        target = {others[i]: stays[similarity[i].argmax()] for i in chosen}
        kept = [*range(protected), *(i for i in others if i not in target), *stays]
        if r:
            assert merging.assignment[image, kept].tolist() == list(range(len(kept)))
        assert (merging.assignment[image, list(target)] == merging.assignment[image, list(target.values())]).all()


@pytest.mark.parametrize(
    ('grid', 'size', 'window', 'protected', 'k'),
    [((6, 8), (3, 4), 3, 1, 4), ((5, 7), (4, 3), 5, 0, 50), ((4, 4), (4, 4), 1, 2, 1), ((3, 5), (1, 2), 3, 0, 2)],
)
def test_expedit_equals_its_definition_token_by_token(grid, size, window, protected, k):
    (height, width), (rows, columns) = grid, size
    tokens = torch.randn(2, protected + height * width, 6, dtype=torch.float64)
    y = torch.randn(2, protected + rows * columns, 3, dtype=torch.float64)
    merging = expedit(tokens, grid, size, 3, window, 0.2, k, protected)
    merged, unmerged = merging.merge(tokens), merging.unmerge(y)
    assert torch.equal(merged[:, :protected], tokens[:, :protected])
    assert torch.equal(unmerged[:, :protected], y[:, :protected])
    for image in range(2):
        map_ = tokens[image, protected:]
        centers = F.adaptive_avg_pool2d(map_.T.view(1, -1, height, width), size)[0].flatten(1).T
        for _ in range(3):
            weights = torch.zeros(height * width, rows * columns, dtype=torch.float64)
            for i in range(height * width):
                cell = i // width * rows // height, i % width * columns // width
                near = [
                    j
                    for j in range(rows * columns)
                    if abs(j // columns - cell[0]) <= window // 2 and abs(j % columns - cell[1]) <= window // 2
                ]
                weights[i, near] = (-0.2 * (map_[i] - centers[near]).square().sum(-1)).softmax(0)
            centers = weights.T @ map_ / weights.sum(0)[:, None]
        torch.testing.assert_close(merged[image, protected:], centers)
        for i in range(height * width):
            distance = (map_[i] - centers).square().sum(-1)
            nearest = distance.argsort()[:k]
            weights = (-0.2 * distance[nearest]).exp()
            rebuilt = weights @ y[image, protected + nearest] / weights.sum()
            torch.testing.assert_close(unmerged[image, protected + i], rebuilt)


def test_a_centre_that_no_token_is_close_to_stays_the_mean_of_the_tokens_near_its_cell():
    tokens = 1e4 * torch.tensor([1.0, 1, 1, 3, 3, 3])[None, :, None].expand(1, 6, 4)  # the middle one begins at 2
    merged = expedit(tokens, (1, 6), (1, 3), temperature=0.02).merge(tokens)
    torch.testing.assert_close(merged, 1e4 * torch.tensor([1.0, 2, 3])[None, :, None].expand(1, 3, 4))


@pytest.mark.parametrize('name', METHODS)
@pytest.mark.parametrize('protected', [0, 1, 2, 3, 5])
@pytest.mark.parametrize('grid', [(6, 8), (5, 7), (5, 5)])
def test_protected_tokens_stay_alone_and_in_front(name, protected, grid):
    features = torch.randn(2, protected + grid[0] * grid[1], 6)
    features[:, :protected] = features[:, protected : 2 * protected]  # the most similar pairs hold a protected token
    merging = in_first_block(name, features, grid, protected)
    assert merging.num_tokens == features.shape[1] > merging.num_merged
    own = torch.arange(protected).expand(2, -1)
    assert torch.equal(merging.assignment[:, :protected], own)
    assert torch.equal(merging.sizes[:, :protected], torch.ones(2, protected))
    assert torch.equal(merging.merge(features)[:, :protected], features[:, :protected])
    assert torch.equal(merging.unmerge(merging.merge(features))[:, :protected], features[:, :protected])


@pytest.mark.parametrize('name', HARD)
@pytest.mark.parametrize('grid', [(6, 8), (5, 7), (1, 4)])
def test_sources_are_a_partition_and_maps_constant_on_them_come_back(name, grid):
    features = torch.randn(3, 1 + grid[0] * grid[1], 6)
    merging = in_first_block(name, features, grid)
    of = sources(merging)
    assert torch.equal(of.sum(1), torch.ones_like(of[:, 0]))
    assert (of.sum(2) >= 1).all() or METHODS[name].fills_up
    assert torch.equal(merging.sizes, of.sum(2).float())
    constant = merging.unmerge(torch.randn(3, merging.num_merged, 4))
    torch.testing.assert_close(merging.unmerge(merging.merge(constant)), constant)


@pytest.mark.parametrize('name', METHODS)
@pytest.mark.parametrize('value', [0.0, 1.0])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_constant_tokens_stay_as_they_are(name, value, dtype):
    x = torch.full((2, 36, 6), value, dtype=dtype, requires_grad=True)
    merging = in_first_block(name, x, (5, 7))
    back = merging.unmerge(merging.merge(x))
    torch.testing.assert_close(back, x)
    back.sum().backward()
    assert x.grad.isfinite().all()


def test_of_equal_tokens_the_first_merge_first_and_into_the_first():
    equal = torch.ones(1, 9, 4)
    many = tome(torch.ones(1, 200, 4), 30).assignment[0]  # more than an unstable sort leaves in order
    assert torch.equal((many == many[1]).nonzero()[:, 0], torch.tensor([*range(0, 60, 2), 1]).sort().values)
    assert tome(equal, 2, protected=1).assignment.tolist() == [[0, 3, 3, 4, 3, 5, 1, 6, 2]]
    assert pitome(equal, 0.75, 0.5, 'bsm', protected=1).assignment.tolist() == [[0, 3, 3, 3, 4, 1, 5, 2, 6]]
    assert pitome(equal, 0.75, 0.5, 'pitome', protected=1).assignment.tolist() == [[0, 5, 5, 5, 6, 1, 2, 3, 4]]
    assert tomesd(equal[:, 1:], (2, 4), 0.25).assignment.tolist() == [[4, 4, 5, 4, 0, 1, 2, 3]]


@pytest.mark.parametrize('num_tokens', [1, 2, 3, 10, 11])
@pytest.mark.parametrize('protected', [0, 1])
def test_no_more_than_half_of_the_tokens_can_go(num_tokens, protected):
    metric = torch.randn(2, num_tokens, 6)
    least = num_tokens - (num_tokens - protected) // 2
    assert tome(metric, 1000, protected).num_merged == least
    assert pitome(metric, 0.0, 0.5, 'pitome', protected).num_merged == least
    assert pitome(metric, 0.0, 0.5, 'bsm', protected).num_merged == least


def test_where_nothing_merges_there_is_no_merging():
    features = torch.randn(2, 36, 6)
    where = dict(layer=0, depth=4, grid=(5, 7), protected=1)
    assert ToMe(0)(features, **where) is None
    assert ToMe([0, 8, 8, 8])(features, **where) is None
    assert ToMe([0, 8, 8, 8])(features, **where | dict(layer=1)).num_merged == 28
    assert PiToMe(1.0)(features, **where) is None
    assert ToMeSD(0.0)(features, **where) is None
    assert Expedit(after_block=2, size=(2, 2))(features, **where) is None
    assert Expedit(after_block=1, size=(28, 28))(features, **where) is None
    assert MPM((1,))(features, **where) is ALGM((1,))(features, **where) is ATC(layers=(1,))(features, **where) is None
    assert ATC(1.0, layers=(0,))(features, **where) is AiluRus(1, keep=1.0)(features, **where) is None
    assert CubistMerge(1)(features, **where) is CubistMerge(0, 0)(features, **where) is None
    assert torch.equal(tome(features, 0, 1).merge(features), features)
    assert torch.equal(pitome(features, 1.0, 0.5, 'bsm', 1).merge(features), features)
    assert torch.equal(tomesd(features, (5, 7), 0.0, 2, 1).merge(features), features)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('name', METHODS)
def test_gradients_are_right_and_deterministic(name, device):
    small = torch.randn(2, 19, 3, dtype=torch.float64, device=device).requires_grad_()
    merging = in_first_block(name, small, (3, 6))
    assert torch.autograd.gradcheck(lambda x: merging.unmerge(merging.merge(x, x[..., 0].square() + 1)), (small,))
    features = torch.randn(2, 1 + 32 * 32, 24, device=device)
    upstream = torch.randn_like(features)
    gradients = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(3):
            x = features.clone().requires_grad_()
            merging = in_first_block(name, x, (32, 32))
            merging.unmerge(merging.merge(x)).backward(upstream)
            gradients.append(x.grad)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


@pytest.mark.parametrize(
    'method',
    [ToMe(1000), PiToMe(0.7), ToMeSD(0.5), Expedit(after_block=1, size=0.7), *(METHODS[name] for name in FEWER_PAIRS)],
    ids=repr,
)
def test_no_matrix_of_all_pairs_is_held_at_4096_tokens(method):
    features = torch.randn(2, 4097, 8)
    with Largest() as largest:
        merging = method(
            features, layer=3 if method == METHODS['ALGM pairs'] else 0, depth=5, grid=(64, 64), protected=1
        )
        merging.unmerge(merging.merge(features))
    assert largest.entries <= BLOCK == 4096 * 4096 // 4


@pytest.mark.parametrize('name', METHODS)
def test_matching_is_done_in_float32_whatever_autocast_says(name):
    features = torch.randn(2, 36, 6)
    wanted = in_first_block(name, features, (5, 7))
    with torch.autocast('cpu', torch.bfloat16):
        merging = in_first_block(name, features, (5, 7))
        back = merging.unmerge(merging.merge(features))
    assert torch.equal(merging.assignment, wanted.assignment)
    assert torch.equal(back, wanted.unmerge(wanted.merge(features)))


def test_a_method_is_built_by_name():
    assert MERGINGS.build(dict(type='ToMe', r=[8, 4])) == ToMe(r=[8, 4], proportional_attention=True)
    assert MERGINGS.build(dict(type='PiToMe')) == PiToMe(ratio=0.925, order='deit', margin=0.75)
    assert MERGINGS.build(dict(type='ToMeSD', ratio=0.5)) == ToMeSD(ratio=0.5, stride=2)
    assert MERGINGS.build(dict(type='ALGM')) == ALGM(layers=(0, 4), threshold=0.88, window=2)
    assert MERGINGS.build(dict(type='MPM')) == MPM(layers=(2, 5))
    assert MERGINGS.build(dict(type='CubistMerge', after_block=2)) == CubistMerge(2, r=0.1, similarity='cosine')
    assert MERGINGS.build(dict(type='AiluRus')) == AiluRus(2, 0.5, 0.05, proportional_attention=True)
    assert MERGINGS.build(dict(type='ATC')) == ATC(0.7, 'average', (3, 6, 9), proportional_attention=True)
    options = dict(after_block=10, size=(28, 28), num_iters=5, window=5, temperature=0.02, k=20)
    assert MERGINGS.build(dict(type='Expedit', **options)) == Expedit(**options)


def test_a_new_method_enters_itself_under_its_name(monkeypatch):
    monkeypatch.setitem(MERGINGS, 'Nothing', None)  # forgotten afterwards

    @MERGINGS.register_module()
    @dataclass(frozen=True)
    class Nothing(MergingMethod):
        place = 'after_block'

        def __call__(self, features, *, layer, depth, grid, protected=0):
            return None

    assert MERGINGS.build(dict(type='Nothing')) == Nothing()


def test_expedit_and_cubist_leave_a_grid_whose_size_may_be_a_share_of_the_map():
    features = torch.randn(1, 1 + 10 * 15, 6)
    for size, grid in ((0.7, (7, 10)), ((7, 10), (7, 10)), ((28, 10), (10, 10))):
        merging = Expedit(1, size)(features, layer=0, depth=4, grid=(10, 15), protected=1)
        assert merging.num_merged == 1 + grid[0] * grid[1]
        assert Expedit(1, size).merged_grid((10, 15)) == grid
    for r, grid in ((0.3, (7, 11)), (2, (8, 13)), ((0, 7), (10, 8)), ((0.5, 1), (5, 14))):
        merging = CubistMerge(0, r)(features, layer=0, depth=4, grid=(10, 15), protected=1)
        assert merging.num_merged == 1 + grid[0] * grid[1]
        assert CubistMerge(0, r).merged_grid((10, 15)) == grid
    assert all(METHODS[name].merged_grid((10, 15)) is None for name in HARD if name != 'CubistMerge')


@pytest.mark.parametrize('name', METHODS)
@pytest.mark.parametrize('grid', [(6, 8), (5, 7)])
def test_a_batch_equals_its_images_one_by_one(name, grid):
    features = torch.randn(3, 1 + grid[0] * grid[1], 6, dtype=torch.float64)
    merging = in_first_block(name, features, grid)
    merged = merging.merge(features)
    back = merging.unmerge(merged)
    for image in range(3):
        one = features[image : image + 1]
        alone = in_first_block(name, one, grid)
        assert torch.equal(alone.assignment, merging.assignment[image : image + 1])
        own = merged[image : image + 1, : alone.num_merged]  # behind it are empty tokens
        torch.testing.assert_close(alone.merge(one), own, atol=1e-12, rtol=0)
        torch.testing.assert_close(alone.unmerge(alone.merge(one)), back[image : image + 1], atol=1e-12, rtol=0)
