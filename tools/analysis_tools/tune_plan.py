"""What tune_gpu.py measures, by name, the most wanted first."""

from typing import Any

from tune_rules import ORDER

_DIMS, _HEADS = (64, 128, 256, 512), (2, 4, 8, 16)  # of SecViT-T and -S
_DETECTOR, _CROP = (800, 1344), (512, 512)
LENGTHS = (98, 49, 196, 512, 1050, 2100)
RIVALS = ('clusters of 98', 'Swin-T', 'published counts', 'published code')
# Near half of the multiply-adds of ViT-B, as docs/token_merging.md has them.
MERGINGS: dict[str, dict | None] = {
    'none': None,
    'ToMe': dict(type='ToMe', r=82),
    'PiToMe': dict(type='PiToMe', ratio=0.885),
    'ToMeSD': dict(type='ToMeSD', ratio=0.75),
    'Expedit': dict(type='Expedit', after_block=3, size=(18, 18)),
    'ALGM': dict(type='ALGM'),
    'MPM': dict(type='MPM'),
    'CubistMerge': dict(type='CubistMerge', after_block=3, r=0.35),
    'AiluRus': dict(type='AiluRus', keep=0.4),
    'ATC': dict(type='ATC', keep=0.6),
}
_OF_1024 = {
    'ToMe': dict(type='ToMe', r=290),
    'PiToMe': dict(type='PiToMe', ratio=0.9),
    'Expedit': dict(type='Expedit', after_block=4, size=(36, 36)),
}
# The aims of the project first: architecture, pass, images, size, and how they are run.
_FIRST = (
    ('small', 'inference', 8, _DETECTOR, 'eager'),
    ('small', 'training', 2, _DETECTOR, 'eager'),
    ('small', 'training', 8, _CROP, 'eager'),
    ('small', 'training', 8, _DETECTOR, 'eager'),
    ('tiny', 'inference', 8, _DETECTOR, 'eager'),
    ('tiny', 'training', 2, _DETECTOR, 'eager'),
    ('small', 'inference', 2, _DETECTOR, 'graph'),
    ('small', 'inference', 8, _DETECTOR, 'graph'),
)


def plan(device: str, small: bool) -> dict[str, dict]:
    """All cells by name, each with its part, the function that measures it, and what that is given.

    ``device`` is 'cuda' or 'cpu'; ``small`` leaves a few tiny cells, for a try in Triton's interpreter.
    """
    cells = _tiles() | _models()
    cells = {name: {'dtype': 'bfloat16', 'rounds': 7} | cell for name, cell in cells.items()}
    cells = _tiny(cells) if small else cells
    return {name: cell | {'device': device} for name, cell in sorted(cells.items(), key=lambda item: item[1]['part'])}


def rival_name(arch: str, mode: str, images: int, shape: tuple[int, int], how: str = 'eager') -> str:
    """What the cell of such rivals is called; they are run 'eager', as a CUDA 'graph' or 'compiled'."""
    return f'rivals, {arch}, {mode}, {images}x3x{shape[0]}x{shape[1]}, {how}'


def _maps(stage: int, *last: int) -> dict[str, tuple[int, ...]]:
    """Two maps of a stage by their label, with a last dimension or without one."""
    found = {}
    for images, height, width in ((2, *_DETECTOR), (8, *_CROP)):
        shape = images, height >> (stage + 2), width >> (stage + 2)
        found[f'stage {stage + 1}, {"x".join(map(str, shape))}'] = (*shape, *last)
    return found


def _tiles() -> dict[str, dict]:
    """The machine, then kernels by themselves: those of part 1, then those of part 2."""
    cells: dict[str, dict] = {'machine': {'part': 1, 'run': 'facts', 'sizes': (1 << 28, 8192, 2000)}}
    common = {'part': 1, 'run': 'tiles', 'small': (2, 29, 37)}
    for length in LENGTHS:
        maps = [_maps(i, _HEADS[i]) for i in (range(4) if length == 98 else (0, 2))]
        cells[f'tiles, attention in clusters of {length}'] = common | {
            'part': 1 if length == 98 else 2, 'what': 'clusters', 'length': length, 'width': 32,
            'maps': {label: shape for each in maps for label, shape in each.items()}, 'small': (2, 47, 53, 8),
        } | ({'kernel': 'attention'} if length == 98 else {})  # fmt: skip
    for stage, width in enumerate(_DIMS):
        for place, channels, size in (('pos', width, 3), ('ffn', 3 * width, 3), ('lepe', width, 5)):
            cells[f'tiles, {place} C{channels} K{size}'] = common | {
                'kernel': 'depthwise', 'what': 'convolution', 'place': place,
                'channels': channels, 'size': size, 'maps': _maps(stage),
            }  # fmt: skip
    for stage, width in enumerate(_DIMS):
        cells[f'tiles, norm C{width}'] = common | {
            'kernel': 'residual_norm', 'what': 'layer_norm', 'channels': width, 'maps': _maps(stage),
        }  # fmt: skip
    cells['tiles, scores'] = common | {
        'part': 2, 'kernel': 'scores', 'what': 'scores', 'width': 32, 'small': (2, 29, 37, 8),
        'maps': {label: shape for i in range(4) for label, shape in _maps(i, _HEADS[i]).items()},
    }  # fmt: skip
    cells['tiles, sort'] = common | {
        'part': 2, 'kernel': 'sort', 'what': 'orders', 'small': (2, 16, 4200),
        'maps': {f'stage {i + 1}, {2 * heads} lists': (2, heads, 67200 >> 2 * i) for i, heads in enumerate(_HEADS)},
    }  # fmt: skip
    return cells


def _model(arch: str, images: int, shape: tuple[int, int]) -> dict[str, Any]:
    """What all cells of a model have."""
    return {'arch': arch, 'images': images, 'shape': shape, 'backend': 'inductor'}


def _models() -> dict[str, dict]:
    """The set of kernels, one more at a time; SecViT beside its rivals; training at unseen sizes."""
    model = _model('small', 2, _DETECTOR)
    cells = {f'set, {kernel}': model | {'part': 2, 'run': 'kernel_set', 'added': kernel} for kernel in ORDER}
    # Each height and width more than once, each pair once, as a detector pads them.
    sizes = [(480 + 32 * (i % 11), 736 + 32 * (5 * i % 19)) for i in range(24)]
    every = [
        (arch, mode, images, shape, how)
        for how in ('eager', 'graph', 'compiled')
        for arch in ('small', 'tiny')
        for images in (2, 8, 1)
        for shape in (_DETECTOR, _CROP)
        for mode in (('inference',) if how == 'graph' else ('inference', 'training'))
        if how != 'compiled' or (arch, images) == ('small', 1)
    ]
    for part, these in ((3, _FIRST), (4, every)):
        for arch, mode, images, shape, how in these:
            cells.setdefault(
                rival_name(arch, mode, images, shape, how),
                _model(arch, images, shape)
                | {'part': part, 'run': 'rivals', 'mode': mode, 'sides': RIVALS}
                | {'graph': how == 'graph', 'compile': how == 'compiled'},
            )
    for side, changes in ((512, {}), (1024, _OF_1024)):
        cells[f'mergings, ViT-B, 1x3x{side}x{side}'] = _model('base', 1, (side, side)) | {
            'part': 4, 'run': 'mergings', 'sides': MERGINGS | changes,
        }  # fmt: skip
    for side in ('clusters of 98', 'Swin-T', 'clusters of 98, without kernels'):
        seconds = {'seconds': 60 if 'without' in side else 90}
        cells[f'visits, {side}'] = model | {'part': 3, 'run': 'visits', 'side': side, 'sizes': sizes} | seconds
    return cells


def _tiny(cells: dict[str, dict]) -> dict[str, dict]:
    """Those that take each way through the code once, with shapes that the interpreter is quick with."""
    arch = {
        'embed_dims': (16, 32, 64, 64), 'depths': (1, 1, 1, 1), 'num_heads': (1, 2, 4, 4), 'mlp_ratio': 1,
        'layer_scale': (False, False, True, True),
    }  # fmt: skip
    wide = dict(BQ=128, BK=128, warps=4)
    candidates = {
        **{name: [dict(T=32, BW=1, BC=64, R=2, warps=4)] for name in ('depthwise', 'depthwise_weight_gradient')},
        'score_sums': [dict(BT=64, PARTS=2, warps=4), dict(BT=32, PARTS=2, warps=4)],
        **{f'attention_{name}': [wide] for name in ('forward', 'queries', 'keys')},
    }
    # It cannot multiply matrices in bfloat16, and has nothing to compile ahead: the cell of norms tries that.
    tiles = {'dtype': 'float16', 'candidates': candidates, 'at_once': True, 'channels': 16, 'size': 3}
    tiles |= {'maps': {'stage 1, 1x8x8': (1, 8, 8)}, 'small': (1, 3, 5)}
    heads = {'width': 16, 'length': 10, 'maps': {'stage 1, 1x8x8': (1, 8, 8, 1)}, 'small': (1, 4, 5, 1)}
    lists = {'stage 1, a list': (1, 1, 40), 'stage 2, too long': (1, 1, 9000)}
    model = {'arch': arch, 'images': 2, 'shape': (32, 32), 'backend': 'eager', 'sizes': [(32, 40)]}
    changes: dict[str, dict] = {
        'machine': {'sizes': (1 << 10, 16, 2)},
        'tiles, attention in clusters of 98': tiles | heads,
        **{f'tiles, {each}': tiles for each in ('pos C64 K3', 'ffn C192 K3', 'lepe C64 K5')},
        'tiles, norm C64': tiles | {'at_once': False},
        'tiles, scores': tiles | heads,
        'tiles, sort': tiles | {'maps': lists, 'small': (1, 1, 33)},
        **{f'set, {kernel}': model for kernel in ORDER},
        **{rival_name(*_FIRST[i]): model for i in (1, 6)},
        rival_name('small', 'inference', 1, _CROP, 'compiled'): model | {'sides': RIVALS[:1]},
        'mergings, ViT-B, 1x3x512x512': model
        | {'arch': dict(embed_dims=32, depth=12, num_heads=2, mlp_ratio=1), 'shape': (96, 96)}
        | {'sides': {'none': None, 'PiToMe': MERGINGS['PiToMe']}},
        **{name: model for name in cells if name.startswith('visits')},
    }
    return {name: cells[name] | {'rounds': 1} | change for name, change in changes.items()}
