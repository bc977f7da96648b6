import math

import numpy as np
import pytest
import torch

from mmsec.ops import apply_rotary, coordinate_table, rotary_periods, rotary_table, token_centers
from tests.conftest import DATA


def test_table_turns_first_half_with_the_row_and_second_half_with_the_column():
    table = rotary_table(3, 5, 16, torch.float64, torch.device('cpu'))  # 4 frequencies, 8 pairs
    assert table.shape == (15, 8, 2)
    row, column = 2, 3
    cos, sin = table[row * 5 + column].T
    for pair in range(8):
        frequency = torch.tensor(10000.0 ** -(pair % 4 / 3)).double()
        angle = (row if pair < 4 else column) * frequency
        assert math.isclose(cos[pair], math.cos(angle), abs_tol=1e-6)
        assert math.isclose(sin[pair], math.sin(angle), abs_tol=1e-6)


def test_rotation_turns_interleaved_pairs():
    x = torch.tensor([1.0, 0.0, 0.0, 2.0]).view(1, 1, 1, 4)
    angle = torch.tensor([[0.3, 0.5]])
    out = apply_rotary(x, torch.stack([angle.cos(), angle.sin()], dim=-1))
    expected = [math.cos(0.3), math.sin(0.3), -2 * math.sin(0.5), 2 * math.cos(0.5)]
    torch.testing.assert_close(out.flatten(), torch.tensor(expected))


def test_tokens_of_a_map_with_channels_first_are_rotated_alike():
    x = torch.randn(2, 8, 3, 5)
    tokens = x.permute(0, 2, 3, 1).flatten(1, 2).unflatten(-1, (2, 4))  # a view: channels are 15 numbers apart
    table = rotary_table(3, 5, 4, x.dtype, x.device)
    assert tokens.stride(-1) != 1
    torch.testing.assert_close(apply_rotary(tokens, table), apply_rotary(tokens.contiguous(), table))


def test_products_depend_on_the_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)
    table = rotary_table(6, 6, 16, torch.float64, torch.device('cpu'))

    def product(first, second):
        a, b = (6 * y + x for y, x in (first, second))
        return (apply_rotary(q, table[a : a + 1]) * apply_rotary(k, table[b : b + 1])).sum()

    torch.testing.assert_close(product((0, 1), (2, 4)), product((3, 2), (5, 5)))


def test_half_precision_stays_half_precision():
    table = rotary_table(2, 2, 8, torch.float32, torch.device('cpu'))
    assert apply_rotary(torch.randn(1, 4, 2, 8).bfloat16(), table).dtype == torch.bfloat16


def test_refuses_a_width_that_has_no_two_halves_of_pairs():
    with pytest.raises(ValueError, match='head_dim must be a multiple of 4 for 2-D rotary embedding, got 6'):
        rotary_table(2, 2, 6, torch.float32, torch.device('cpu'))


def test_angles_at_coordinates_are_those_of_dinov3():
    measured = torch.from_numpy(np.load(DATA / 'dinov3_tiny_timm.npz')['rope_3x5_sin_cos'])  # sines, then cosines
    periods = rotary_periods(16, torch.float32, torch.device('cpu'))
    table = coordinate_table(token_centers(3, 5, torch.float32, torch.device('cpu')), periods)  # (15, 8, 2)
    sin, cos = measured.unflatten(-1, (2, 2, 8))[:, :, 0].unbind(1)  # each angle stands there twice
    assert torch.equal(table, torch.stack([cos, sin], dim=-1))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_a_table_of_each_image_rotates_that_image(dtype):
    x, coordinates = torch.randn(3, 5, 2, 8).to(dtype), torch.rand(3, 5, 2)
    table = coordinate_table(coordinates, rotary_periods(8, torch.float32, x.device))
    if dtype == torch.float64:
        table = table.double()
    for found in (apply_rotary(x, table), apply_rotary(x.mT.contiguous().mT, table)):  # as complex numbers, and not
        for i in range(3):
            torch.testing.assert_close(found[i : i + 1], apply_rotary(x[i : i + 1], table[i]))


def test_centres_of_tokens_are_those_of_the_image_whatever_its_size():
    centers = token_centers(2, 4, torch.float64, torch.device('cpu'))
    assert centers.tolist() == [[y, x] for y in (-0.5, 0.5) for x in (-0.75, -0.25, 0.25, 0.75)]
    assert token_centers(1, 1, torch.float32, torch.device('cpu')).tolist() == [[0.0, 0.0]]
