"""Subcommands of benchmark.py that time whole backbones."""

import argparse
import ast
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import torch
from baselines import Side, prepare, secvit
from matplotlib.figure import Figure
from mmengine.registry import init_default_scope
from timing import apart, compared, interleaved, rounds, summary, synchronised, table, workers
from torch import Tensor, nn

import mmsec.models  # noqa: F401
from mmsec.cli.config import load_config
from mmsec.cli.deployment import prepared as prepared_image
from mmsec.cli.flops import count_kinds
from mmsec.cli.grouping import grouping_of
from mmsec.datasets.image_files import read_image
from mmsec.errors import InputError
from mmsec.models.inspection import image_channels
from mmsec.ops import Tokens
from mmsec.ops.attention import row_indices, take_rows
from mmsec.ops.grouping import GROUPINGS
from mmsec.registry import MODELS

CLUSTERS = {'published': 'published counts', 'size': 'clusters of 98'}
# As all published weights expect it.
NORMALISED = {'mean': '123.675 116.28 103.53', 'std': '58.395 57.12 57.375', 'channels': 'RGB'}
_PUBLISHED = dict(type='SemanticGrouping')


def side_of(args: argparse.Namespace, **options) -> Side:
    """SecViT as the command line says."""
    given = {name: getattr(args, name) for name in Side._fields if hasattr(args, name)}
    defaults = dict(model='secvit', clusters='published', dtype='float32', compile=False, grouping=_PUBLISHED)
    return Side(**(defaults | given | {'shape': tuple(args.shape)} | options))


def backbone(args: argparse.Namespace) -> dict:
    """Time a SecViT beside baselines, each in a process of its own."""
    side = side_of(args, grouping=grouping_of(args.grouping) if args.grouping else _PUBLISHED)
    sides = {'secvit': side, **{name: side.against(name) for name in args.against}}
    print(', '.join(map(str, side)))
    found = compared(apart(prepare, sides, args.repeats))
    result: dict = {'sides': {name: {'settings': each._asdict()} | found[name] for name, each in sides.items()}}
    if args.share:
        result['clustering'] = clustering_share(side, args.repeats)
        print(f'clustering is {result["clustering"]["share"]:.1%} of the attention layers')
    return result


def clustering_share(side: Side, repeats: int) -> dict:
    """Time of clustering (scores, sort, moving tokens there and back) in the attention layers, and of those layers."""
    model = secvit(side).to(side.device).eval()
    total = {'clustering': 0.0, 'attention_layers': 0.0}
    for stage, stride in zip(model.stages, model.stage_strides, strict=True):
        height, width = (-(-length // stride) for length in side.shape)
        layer, num_clusters = stage.blocks[0].attn, stage.clusters_for(height * width)
        x = torch.randn(side.batch, height, width, layer.out_proj.in_features, device=side.device)
        rotary = stage.rotary(height, width, x)
        tokens = x.flatten(1, 2).unflatten(-1, (layer.num_heads, -1))  # (B, N, h, d)
        given = Tokens(torch.stack([tokens] * 3, dim=2), tokens, (height, width))

        def cluster(layer=layer, tokens=tokens, given=given, num_clusters=num_clusters) -> None:
            if num_clusters > 1:
                index, inverse = row_indices(layer.grouping(given, num_clusters))
                moved = take_rows(index, inverse, *[tokens.flatten(0, 2)] * 3)
                take_rows(inverse, index, moved[0])

        def attend(layer=layer, x=x, rotary=rotary) -> None:
            layer(x, rotary)

        sides = {
            'clustering': synchronised(cluster, side.device),
            'attention_layers': synchronised(attend, side.device),
        }
        with torch.no_grad():
            seconds = interleaved(sides, repeats)
        for name in total:
            total[name] += summary(seconds[name])['seconds_median'] * len(stage.blocks)
    return {**total, 'share': total['clustering'] / total['attention_layers']}


def groupings(args: argparse.Namespace) -> dict:
    """Time groupings beside the published one, by themselves and in a whole backbone."""
    given = [grouping_of(words) for words in args.grouping or [[name] for name in sorted(GROUPINGS)]]
    named = {' '.join([each['type'], *(f'{key}={value}' for key, value in each.items() if key != 'type')]): each
             for each in (_PUBLISHED, *given)}  # fmt: skip
    if len(named) < 2:
        raise InputError(f'--grouping: name at least one besides {next(iter(named))}, which all are compared with')
    results: dict[str, dict[str, dict]] = {}
    for clusters, title in CLUSTERS.items():
        sides = {name: side_of(args, clusters=clusters, grouping=each) for name, each in named.items()}
        torch.manual_seed(0)
        seconds = interleaved({name: grouping_alone(side) for name, side in sides.items()}, args.repeats)
        print(f'{title}, groupings alone:')
        rows = results[clusters] = compared({name: summary(each) for name, each in seconds.items()})
        if not args.alone:
            print(f'{title}, a whole backbone:')
            for name, row in compared(apart(prepare, sides, args.repeats)).items():
                rows[name]['backbone'] = row
    return {'groupings': results}


def grouping_alone(side: Side) -> Callable[[], None]:
    """A function that groups random tokens as all blocks of a backbone do in one pass, and waits for the device."""
    model = secvit(side).to(side.device).train(side.mode == 'train')
    calls = []
    for stage, stride in zip(model.stages, model.stage_strides, strict=True):
        height, width = (-(-length // stride) for length in side.shape)
        heads = (stage.blocks[0].attn.num_heads, stage.head_dim)
        qkv = torch.randn(side.batch, height * width, 3, *heads, device=side.device)
        tokens = Tokens(qkv, torch.randn(side.batch, height * width, *heads, device=side.device), (height, width))
        for i, block in enumerate(stage.blocks):
            num_clusters = stage.clusters_for(height * width, i)
            if num_clusters > 1:
                calls.append((block.attn.grouping, tokens, num_clusters))

    @torch.no_grad()
    def group() -> None:
        for grouping, tokens, num_clusters in calls:
            grouping(tokens, num_clusters)

    return synchronised(group, side.device)


def read(text: str) -> tuple[str, dict]:
    """``NAME: dict(...)`` of the command line -> the name and the dict."""
    name, _, config = text.partition(':')
    try:
        return name.strip(), _value(ast.parse(config.strip(), mode='eval').body)
    except (SyntaxError, ValueError) as error:
        raise InputError(f"it is given as NAME: dict(type='mmsec.ViT', ...), got {text!r}") from error


def _value(node: ast.expr):
    """A literal, in which dicts may be written as calls of ``dict``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        return {str(each.arg): _value(each.value) for each in node.keywords}
    return ast.literal_eval(node)


def build(config: dict) -> nn.Module:
    """A backbone with the same random weights each time, or those that its ``init_cfg`` names."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(config)
    if config.get('init_cfg'):
        model.init_weights()
    return model.eval()


def prepare_config(task: tuple[dict, Sequence[Sequence[int]], str]) -> Callable[..., None]:
    """A function that runs a backbone on an image of noise of the i-th of some sizes."""
    config, shapes, device = task
    model = build(config).to(device)
    images = [torch.randn(1, image_channels(model), *shape, device=device) for shape in shapes]
    return synchronised(torch.no_grad()(lambda i=0: model(images[i])), device)


def backbones(args: argparse.Namespace) -> dict:
    """Time any backbones beside the first: speed, memory, cost, and the distance of their maps from the first's."""
    configs = dict(read(text) for text in args.backbones)
    if not configs:
        raise InputError('no backbone given; --help has an example')
    channels = image_channels(build(next(iter(configs.values()))))
    image = torch.randn(1, channels, *args.shape)
    if args.image:
        notes = NORMALISED if channels == 3 else {'mean': '116', 'std': '57', 'channels': f'{channels}'}
        image = prepared_image(read_image(Path(args.image), channels), notes, args.shape)
    far = distances(configs, image)
    tasks = {name: (each, [args.shape], args.device) for name, each in configs.items()}
    rows = compared(apart(prepare_config, tasks, args.repeats))
    for name, row in rows.items():
        model = build(configs[name])
        adds = count_kinds(model, lambda model=model: model(image))['']  # type: ignore[misc]
        row |= {'config': configs[name], 'multiply_adds': adds, 'distance': far[name]}
    costs = {name: sum(row['multiply_adds'].values()) for name, row in rows.items()}
    first = next(iter(costs.values()))
    lines = [
        [name, f'{cost / 1e9:.1f}', f'{cost / first:.2f}', '-' if far[name] is None else f'{far[name]:.3f}']
        for name, cost in costs.items()
    ]
    print(table(['', 'multiply-adds, G', 'of the first', 'distance'], lines))
    if args.plot:
        draw_distances(rows, f'1x{channels}x{args.shape[0]}x{args.shape[1]}', args.plot)
    return {'backbones': rows}


def distances(configs: dict[str, dict], image: Tensor) -> dict[str, float | None]:
    """Distance of the last map from that of the first backbone, over its length; None for another architecture."""
    result: dict[str, float | None] = {}
    state: dict[str, Tensor] = {}
    first = None
    for name, config in configs.items():
        model = build(config)
        state = state or model.state_dict()
        if {key: value.shape for key, value in model.state_dict().items()} != {k: v.shape for k, v in state.items()}:
            result[name] = None
            continue
        model.load_state_dict(state)
        with torch.no_grad():
            last = model(image)[-1]
        first = last if first is None else first
        result[name] = float((last - first).norm() / first.norm()) if last.shape == first.shape else None
    return result


def draw_distances(rows: dict[str, dict], title: str, path: Path) -> None:
    """Distance from the first backbone against speed, a dot for each backbone that has a distance."""
    figure = Figure(figsize=(6, 3.6), dpi=120, layout='constrained')
    axes = figure.subplots()
    for i, (name, row) in enumerate(rows.items()):
        if row['distance'] is not None:
            point = (1 / row['seconds_median_ratio'], row['distance'])
            axes.plot(*point, 'o', color='tab:blue')
            axes.annotate(name, point, xytext=(-7, -4 if i % 2 else 4), textcoords='offset points', ha='right')
    axes.set(xlabel='times as fast as the first', ylabel='relative distance of the last map', title=title)
    axes.margins(x=0.3, y=0.15)
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def merging(args: argparse.Namespace) -> dict:
    """Time the backbone of a config without merging and with each of some, on images of several sizes."""
    own = load_config(args.config).model.backbone.to_dict()
    options = {'nothing': {}, **dict(read(text) for text in args.merging)}
    shapes = [[int(side) for side in size.split('x')] for size in args.sizes]
    found: dict[str, dict[str, list[float]]] = {name: {size: [] for size in args.sizes} for name in options}
    tasks = {name: (own | {'merging': each}, shapes, args.device) for name, each in options.items()}
    with workers(prepare_config, tasks) as ready:
        for turn, (i, size) in product(range(args.repeats + 2), enumerate(args.sizes)):
            timers = {name: lambda worker=worker, i=i: worker.turn(i) for name, worker in ready.items()}
            for name, (seconds,) in rounds(timers, 1).items():
                found[name][size] += [seconds] if turn > 1 else []  # two visits of each size warm up
    medians = {
        name: {size: summary(each)['seconds_median'] for size, each in sizes.items()} for name, sizes in found.items()
    }
    first = medians['nothing']
    print(table(
        ['merging', *(f'{size}, ms' for size in args.sizes), 'ratio'],
        [[name, *(f'{each * 1e3:.1f}' for each in row.values()), f'{sum(row.values()) / sum(first.values()):.2f}']
         for name, row in medians.items()],
    ))  # fmt: skip
    return {'mergings': options, 'seconds': medians, 'rounds': found}
