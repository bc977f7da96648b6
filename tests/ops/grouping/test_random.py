import pytest
import torch

from mmsec.ops.grouping.hashing import hashed, hashed_rows
from tests.conftest import build_grouping, tokens_of


def order(training, block=0, batch=2, num_tokens=500):
    method = build_grouping(dict(type='RandomGrouping'), block).train(training)
    return method(tokens_of(torch.randn(batch, num_tokens, 3, 4)), 5).order


def test_in_training_every_image_head_and_pass_draws_its_own():
    first, second = order(True), order(True)
    lists = torch.cat([first.flatten(0, 1), second.flatten(0, 1)])
    assert len(lists.unique(dim=0)) == 12
    torch.manual_seed(7)
    drawn = order(True)
    torch.manual_seed(7)
    assert torch.equal(order(True), drawn)


def test_in_evaluation_the_order_depends_on_block_and_head_only():
    fixed = order(False)
    torch.manual_seed(7)
    assert torch.equal(order(False, batch=1)[0], fixed[0])
    assert torch.equal(fixed[0], fixed[1])
    blocks = torch.cat([order(False, block)[0] for block in range(4)])
    assert len(blocks.unique(dim=0)) == 12


@pytest.mark.parametrize('training', [True, False])
def test_every_token_is_as_likely_in_every_cluster(training):
    orders = torch.cat([order(training, block, num_tokens=100).flatten(0, 1)[:3] for block in range(200)])
    clusters = orders.argsort(-1) // 20  # of each token, 5 clusters
    shares = torch.stack([(clusters == m).double().mean(0) for m in range(5)])
    assert (shares - 0.2).abs().max() < 5 * (0.2 * 0.8 / 600) ** 0.5  # five standard deviations
    together = (clusters[:, 1:] == clusters[:, :-1]).double().mean().item()
    assert together == pytest.approx(19 / 99, abs=0.01)  # neighbours are no likelier to be together than others


def test_scrambled_integers_differ_and_are_those_of_a_plain_computation():
    def plain(x):
        for _ in range(2):
            x = (x ^ x >> 16) * 0x45D9F3B % 2**32
        return x ^ x >> 16

    numbers = [0, 1, 2, 12345, 2**31, 2**32 - 1]
    assert hashed(torch.tensor(numbers)).tolist() == [plain(x) for x in numbers]
    assert all(len(row.unique()) == 70000 for row in hashed_rows(3, 2, 70000, torch.device('cpu')))
