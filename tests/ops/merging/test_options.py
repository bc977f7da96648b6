"""Options of mergings that cannot be used, alone or with a model or a map, are refused in one line."""

import re

import pytest
import torch

from mmsec.ops.merging import MERGINGS

NAMES = ', '.join(sorted(MERGINGS))
WHERE = dict(layer=0, depth=4, grid=(5, 7), protected=1)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(type='ToMee'), f"type of merging must be one of {NAMES}, got 'ToMee'. A config has one of your own"),
        (dict(type=['ToMe']), f"type of merging must be one of {NAMES}, got ['ToMe']"),
        (dict(r=8), f'type of merging must be one of {NAMES}, got None'),
        (dict(type='ToMe', R=8), "merging ToMe has no option 'R'; it takes r, proportional_attention"),
        (dict(type='ToMeSD', stride=2), "merging ToMeSD needs the option 'ratio'; it takes ratio, stride"),
        (dict(type='ToMe', r=-1), 'r of ToMe must be an integer of at least 0, or a list of them, got -1'),
        (dict(type='ToMe', r=0.5), 'r of ToMe must be an integer of at least 0, or a list of them, got 0.5'),
        (dict(type='ToMe', r=[8, -8]), 'r of ToMe must be an integer of at least 0, or a list of them, got [8, -8]'),
        (dict(type='PiToMe', ratio=0.4), 'ratio of PiToMe must be in [0.5, 1], '),
        (dict(type='PiToMe', order='vit'), "order of PiToMe must be 'deit' or 'mae', got 'vit'"),
        (dict(type='PiToMe', margin='x'), "margin of PiToMe must be a number, got 'x'"),
        (dict(type='ToMeSD', ratio=0.8), 'ratio of ToMeSD must be in [0, 0.75], '),
        (dict(type='ToMeSD', ratio=0.5, stride=1), 'stride of ToMeSD must be an integer of at least 2, got 1'),
        (dict(type='Expedit', after_block=0, size=0.5), 'after_block of Expedit must be an integer of at least 1'),
        (dict(type='Expedit', after_block=1, size=0.5, temperature=0), 'temperature of Expedit must be above 0, or '),
        (dict(type='Expedit', after_block=1, size=(3, 0)), 'size of Expedit must be rows and columns, '),
        (dict(type='Expedit', after_block=1, size=None), 'size of Expedit must be rows and columns, '),
        (dict(type='Expedit', after_block=1, size=28), 'size of Expedit must be rows and columns, '),
        (
            dict(type='Expedit', after_block=1, size=0.5, temperature=float('inf')),
            'temperature of Expedit must be above',
        ),
        (dict(type='ALGM', threshold=1.5), 'threshold of ALGM must be a cosine in (-1, 1], got 1.5'),
        (dict(type='ALGM', threshold=float('nan')), 'threshold of ALGM must be a cosine in (-1, 1], got nan'),
        (dict(type='ALGM', window=1), 'window of ALGM must be an integer of at least 2, got 1'),
        (dict(type='ALGM', layers=4), 'layers of ALGM must be indices of blocks from 0 in ascending order, got 4'),
        (dict(type='MPM', layers=()), 'layers of MPM must be indices of blocks from 0 in ascending order, got ()'),
        (dict(type='MPM', layers=(5, 2)), 'layers of MPM must be indices of blocks from 0 in ascending order, got (5'),
        (
            dict(type='ATC', layers=(-1, 3)),
            'layers of ATC must be indices of blocks from 0 in ascending order, got (-1',
        ),
        (
            dict(type='ATC', layers='369'),
            "layers of ATC must be indices of blocks from 0 in ascending order, got '369'",
        ),
        (dict(type='ATC', keep=0), 'keep of ATC must be in (0, 1], the share of tokens a block keeps, got 0'),
        (dict(type='ATC', linkage='ward'), "linkage of ATC must be 'single', 'complete' or 'average', got 'ward'"),
        (dict(type='AiluRus', keep=1.1), 'keep of AiluRus must be in (0, 1], the share of tokens to keep, got 1.1'),
        (dict(type='AiluRus', alpha=-0.1), 'alpha of AiluRus must be in [0, 1], got -0.1'),
        (dict(type='AiluRus', after_block=0), 'after_block of AiluRus must be an integer of at least 1, got 0'),
        (dict(type='CubistMerge', after_block=-1), 'after_block of CubistMerge must be an integer of at least 0, got'),
        (dict(type='CubistMerge', after_block=0, r=0.6), 'r of CubistMerge must be rows and columns to remove, each '),
        (dict(type='CubistMerge', after_block=0, r=-1), 'r of CubistMerge must be rows and columns to remove, each '),
        (dict(type='CubistMerge', after_block=0, r=(1, 1, 1)), 'r of CubistMerge must be rows and columns to remove, '),
        (dict(type='CubistMerge', after_block=0, r='x'), 'r of CubistMerge must be rows and columns to remove, each '),
        (dict(type='CubistMerge', after_block=0, similarity='dot'), "similarity of CubistMerge must be 'cosine' or "),
    ],
)
def test_options_that_cannot_be_used_are_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=f'^{re.escape(message)}.*$'):
        MERGINGS.build(options)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(type='ToMe', r=[8, 8]), 'r of ToMe must have one number for each of 4 blocks, got 2: [8, 8]'),
        (dict(type='Expedit', after_block=4, size=0.5), 'after_block of Expedit must be below the number of blocks, 4'),
        (dict(type='AiluRus', after_block=4), 'after_block of AiluRus must be below the number of blocks, 4, got 4'),
        (dict(type='CubistMerge', after_block=4), 'after_block of CubistMerge must be below the number of blocks, 4'),
        (dict(type='ALGM'), 'layers of ALGM must be below the number of blocks, 4, got (0, 4)'),
        (dict(type='MPM'), 'layers of MPM must be below the number of blocks, 4, got (2, 5)'),
        (dict(type='ATC'), 'layers of ATC must be below the number of blocks, 4, got (3, 6, 9)'),
        (
            dict(type='CubistMerge', after_block=0, r=3),
            'r of CubistMerge must be at most half of each side, got 3 for a map of 5 x 7 tokens: give a share such as',
        ),
        (
            dict(type='Expedit', after_block=1, size=0.5, temperature=1e-3),
            'temperature=0.001 of Expedit is too low for these features, it would erase the map: tokens lie ',
        ),
    ],
)
def test_options_that_do_not_fit_the_model_or_the_map_are_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=f'^{re.escape(message)}.*$'):
        MERGINGS.build(options)(torch.randn(1, 36, 6), **WHERE)


@pytest.mark.parametrize(
    'options',
    [
        dict(type='ToMeSD', ratio=0.5),
        dict(type='Expedit', after_block=1, size=0.5),
        dict(type='ALGM', layers=(0,)),
        dict(type='CubistMerge', after_block=0, r=1),
    ],
    ids=lambda options: options['type'],
)
def test_tokens_that_are_not_those_of_the_grid_are_refused(options):
    with pytest.raises(ValueError, match='a grid of 6 x 6 and 1 more tokens are not 36 tokens'):
        MERGINGS.build(options)(torch.randn(1, 36, 6), **WHERE | dict(grid=(6, 6)))
