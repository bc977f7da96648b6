"""What tune_gpu.py measures, by name, the most wanted first."""

from typing import Any

_DIMS, _HEADS = (64, 128, 256, 512), (2, 4, 8, 16)  # of SecViT-T and -S
_TINY = {
    'embed_dims': (16, 32, 64, 64), 'depths': (1, 1, 1, 1), 'num_heads': (1, 2, 4, 4), 'mlp_ratio': 1,
    'layer_scale': (False, False, True, True),
}  # fmt: skip
# Options of mergings by the size of the image: those that docs/performance measures on a CPU.
_MERGINGS = {
    512: {
        'ToMe': {'r': 82}, 'PiToMe': {'ratio': 0.885}, 'ToMeSD': {'ratio': 0.75},
        'Expedit': {'after_block': 3, 'size': [18, 18]},
    },
    1024: {
        'ToMe': {'r': 290}, 'PiToMe': {'ratio': 0.9}, 'ToMeSD': {'ratio': 0.7},
        'Expedit': {'after_block': 4, 'size': [36, 36]},
    },
    64: {
        'ToMe': {'r': 1}, 'PiToMe': {'ratio': 0.9}, 'ToMeSD': {'ratio': 0.5},
        'Expedit': {'after_block': 4, 'size': [2, 2]},
    },
}  # fmt: skip
# Tiles that the interpreter is fast with.
_CANDIDATES = {
    'depthwise': [dict(T=32, BW=1, BC=64, R=2, warps=4), dict(T=16, BW=1, BC=64, R=4, warps=4)],
    'depthwise_weight_gradient': [dict(T=32, BW=1, BC=64, R=2, warps=4)],
    'score_sums': [dict(BT=64, PARTS=2, warps=4)],
    'attention_forward': [dict(BQ=128, BK=128, warps=4)],
    'attention_queries': [dict(BQ=128, BK=128, warps=4)],
    'attention_keys': [dict(BQ=128, BK=128, warps=4)],
}
LENGTHS = (98, 49, 196, 512, 1050, 2100)
RIVALS = ('clusters of 98', 'Swin-T', 'published counts', 'published code')
# The aims of the project first: architecture, pass, images, size, and how they are run.
_FIRST = (
    ('small', 'inference', 8, (800, 1344), 'eager'),
    ('small', 'training', 2, (800, 1344), 'eager'),
    ('small', 'training', 8, (512, 512), 'eager'),
    ('small', 'training', 8, (800, 1344), 'eager'),
    ('tiny', 'inference', 8, (800, 1344), 'eager'),
    ('tiny', 'training', 2, (800, 1344), 'eager'),
    ('small', 'inference', 2, (800, 1344), 'graph'),
    ('small', 'inference', 8, (800, 1344), 'graph'),
)


def plan(device: str, small: bool) -> dict[str, dict]:
    """All cells by name, each with its part, the function that measures it, and what that is given.

    Args:
        device (str): 'cuda' or 'cpu'.
        small (bool): Whether shapes and models are tiny, for a try in Triton's interpreter.
    """
    common = {'device': device, 'dtype': 'bfloat16', 'rounds': 1 if small else 7}
    cells = {**_machine(small), **_tiles(small), **_sets(small), **_backbones(small), **_rest(small)}
    cells = {name: common | cell for name, cell in cells.items()}
    return dict(sorted(cells.items(), key=lambda item: item[1]['part']))  # stable


def rival_name(arch: str, mode: str, images: int, shape: tuple[int, int], how: str = 'eager') -> str:
    """What the cell of such rivals is called; they are run 'eager', as a CUDA 'graph' or 'compiled'."""
    return f'rivals, {arch}, {mode}, {images}x3x{shape[0]}x{shape[1]}, {how}'


def _machine(small: bool) -> dict[str, dict]:
    """The machine, and the cost of cuDNN's plans."""
    cells: dict[str, dict] = {
        'machine': {'part': 1, 'run': 'facts', 'sizes': (1 << 10, 16, 2) if small else (1 << 28, 8192, 2000)}
    }
    for channels, size in ((64, 3), (256, 5), (768, 3)):
        maps = [(5 + i, 6) if small else (96 + 7 * i + size, 168 + 5 * i) for i in range(3)]
        cell = {'part': 1, 'run': 'plans', 'channels': 16 if small else channels, 'size': size, 'maps': maps}
        cells[f'plans, C{channels} K{size}'] = cell
    return cells


def _maps(stage: int, small: bool, last: int | None = None) -> dict[str, tuple[int, ...]]:
    """Two maps of a stage by their label, with a last dimension or without one."""
    found = {}
    for images, height, width in ((1, 32, 32),) if small else ((2, 800, 1344), (8, 512, 512)):
        sides = height >> (stage + 2), width >> (stage + 2)
        shape = (images, *sides)
        found[f'stage {stage + 1}, {"x".join(map(str, shape))}'] = shape if last is None else (*shape, last)
    return found


def _tiles(small: bool) -> dict[str, dict]:
    """Kernels by themselves: those of part 1, then those of part 2."""
    cells: dict[str, dict] = {}
    test = (1, 3, 5) if small else (2, 29, 37)
    # The interpreter cannot multiply matrices in bfloat16, and has nothing to compile: one cell tries that.
    common = {'run': 'tiles'} | ({'dtype': 'float16', 'candidates': _CANDIDATES, 'at_once': True} if small else {})
    for length in (98, 2100) if small else LENGTHS:
        stages = (0,) if small else range(4) if length == 98 else (0, 2)
        maps = {label: shape for i in stages for label, shape in _maps(i, small, 1 if small else _HEADS[i]).items()}
        maps = {'stage 1, 1x12x12': (1, 12, 12, 1)} if small and length == 2100 else maps
        test_map = ((1, 20, 20, 1) if length == 2100 else (1, 4, 5, 1)) if small else (2, 47, 53, 8)
        cells[f'tiles, attention in clusters of {length}'] = common | {
            'part': 1 if length == 98 else 2, 'what': 'clusters', 'length': length // (10 if small else 1),
            'width': 16 if small else 32, 'maps': maps, 'small': test_map,
        } | ({'kernel': 'attention'} if length == 98 else {})  # fmt: skip
    dims = (16,) if small else _DIMS
    for stage, width in enumerate(dims):
        for place, channels, size in (('pos', width, 3), ('ffn', 3 * width, 3), ('lepe', width, 3 if small else 5)):
            cells[f'tiles, {place} C{channels} K{size}'] = common | {
                'part': 1, 'kernel': 'depthwise', 'what': 'convolution', 'place': place,
                'channels': channels, 'size': size, 'maps': _maps(stage, small), 'small': test,
            }  # fmt: skip
    for stage, width in enumerate(dims):
        cells[f'tiles, norm C{width}'] = common | {
            'part': 1, 'kernel': 'residual_norm', 'what': 'layer_norm', 'channels': width, 'at_once': False,
            'maps': _maps(stage, small), 'small': test,
        }  # fmt: skip
    every = {label: shape for i in range(4) for label, shape in _maps(i, small, 1 if small else _HEADS[i]).items()}
    every = dict(list(every.items())[:1]) if small else every
    cells['tiles, scores'] = common | {
        'part': 2, 'kernel': 'scores', 'what': 'scores', 'width': 16 if small else 32, 'maps': every,
        'small': (*test, 1 if small else 8),
    }  # fmt: skip
    lists = {f'stage {i + 1}, {2 * heads} lists': (2, heads, 67200 >> 2 * i) for i, heads in enumerate(_HEADS)}
    lists = {'stage 1, a list': (1, 1, 40), 'stage 2, too long': (1, 1, 9000)} if small else lists
    cells['tiles, sort'] = common | {
        'part': 2, 'kernel': 'sort', 'what': 'orders', 'maps': lists, 'small': (1, 1, 33) if small else (2, 16, 4200),
    }  # fmt: skip
    return cells


def _model(small: bool, arch: str, images: int, shape: tuple[int, int]) -> dict[str, Any]:
    """What all cells of a SecViT have."""
    return {'arch': _TINY if small else arch, 'images': 2 if small else images, 'shape': (32, 32) if small else shape}


def _sets(small: bool) -> dict[str, dict]:
    """The set of kernels, one more at a time."""
    from tune_rules import ORDER

    model = _model(small, 'small', 2, (800, 1344)) | {'part': 2, 'run': 'kernel_set'}
    return {f'set, {kernel}': model | {'added': kernel} for kernel in ORDER}


def _backbones(small: bool) -> dict[str, dict]:
    """SecViT beside its rivals: the aims, then all other combinations."""
    every = [
        (arch, mode, images, shape, how)
        for how in ('eager', 'graph', 'compiled')
        for arch in ('small', 'tiny')
        for images in (2, 8, 1)
        for shape in ((800, 1344), (512, 512))
        for mode in (('inference',) if how == 'graph' else ('inference', 'training'))
        if how != 'compiled' or (arch, images) == ('small', 1)
    ]
    first = list(_FIRST)
    if small:
        first, every = [_FIRST[1], _FIRST[6]], [('small', 'inference', 2, (800, 1344), 'compiled')]
    cells = {}
    for part, these in ((3, first), (4, every)):
        for arch, mode, images, shape, how in these:
            cells.setdefault(
                rival_name(arch, mode, images, shape, how),
                _model(small, arch, images, shape)
                | {'part': part, 'run': 'rivals', 'mode': mode, 'graph': how == 'graph', 'sides': RIVALS}
                | {'compile': how == 'compiled', 'backend': 'eager' if small else 'inductor'},
            )
    return cells


def _rest(small: bool) -> dict[str, dict]:
    """Unseen sizes, merging, compilation, and what other tools measure."""
    # Each height and width more than once, each pair once, as a detector pads them.
    sizes = [(480 + 32 * (i % 11), 736 + 32 * (5 * i % 19)) for i in range(24)]
    sizes = [(32, 40)] if small else sizes
    cells: dict[str, dict] = {}
    model = _model(small, 'small', 2, (800, 1344)) | {'part': 3}
    for side in ('clusters of 98', 'Swin-T', 'clusters of 98, without kernels'):
        seconds = {'seconds': 60 if 'without' in side else 90}
        cells[f'visits, {side}'] = model | {'run': 'visits', 'side': side, 'sizes': sizes} | seconds
    options = ['--collect-only'] if small else []
    cells['float32 bound'] = {'part': 3, 'run': 'bound', 'options': options, 'limit': 120}
    for size, images in ((64, 1),) if small else ((512, 8), (1024, 2)):
        cells[f'merging, {images}x3x{size}x{size}'] = {
            'part': 3, 'run': 'merging', 'arch': 'tiny' if small else 'base', 'images': images, 'shape': (size, size),
            'options': _MERGINGS[size],
        }  # fmt: skip
    backend = 'eager' if small else 'inductor'
    cells['regional compilation'] = model | {
        'run': 'regional', 'backend': backend, 'sizes': sizes[:3], 'limit': 180,
    }  # fmt: skip
    return cells
