"""Time any backbones beside each other, by turns in one run, each in a process of its own: cost, memory, distance."""

import argparse
import ast
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from benchmark_backbone import Worker, machine, peak_of, serve
from get_flops import count_kinds
from matplotlib.figure import Figure
from mmengine.registry import init_default_scope
from torch import Tensor

from mmsec.cli.deployment import prepared as prepared_image
from mmsec.cli.images import read_image
from mmsec.engine.processes import run as run_tool
from mmsec.errors import InputError
from mmsec.models import backbones  # noqa: F401
from mmsec.registry import MODELS

# As all published weights expect it.
NORMALISED = {'mean': '123.675 116.28 103.53', 'std': '58.395 57.12 57.375', 'channels': 'RGB'}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'backbones',
        nargs='*',
        metavar='NAME: {...}',
        help="""a name, a colon and a backbone as in a config, such as
        "PiToMe: dict(type='mmsec.ViT', arch='base', merging=dict(type='PiToMe'))"; the first is compared with""",
    )
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'), default=(800, 1344), help='default: 800 1344')
    parser.add_argument('--image', help='for distances (default: noise)')
    parser.add_argument('--repeats', type=int, default=5, help='timed rounds (default: %(default)s)')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write all figures to this file')
    parser.add_argument('--plot', type=Path, metavar='OUT', help='draw distance against speed')
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    parser.add_argument('--peak-of', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error(f'--repeats must be at least 1, got {args.repeats}')
    return args


def read(text: str) -> tuple[str, dict]:
    """A backbone of the command line -> its name and its config.

    Raises:
        InputError: If it is none.
    """
    name, _, config = text.partition(':')
    try:
        tree = ast.parse(config.strip(), mode='eval')
        return name.strip(), _value(tree.body)
    except (SyntaxError, ValueError) as error:
        raise InputError(f"a backbone is given as NAME: dict(type='mmsec.ViT', ...), got {text!r}") from error


def _value(node: ast.expr) -> object:
    """A literal, in which dicts may be written as calls of ``dict``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        return {str(each.arg): _value(each.value) for each in node.keywords}
    return ast.literal_eval(node)


def build(config: dict) -> torch.nn.Module:
    """A backbone with the same random weights each time, or those that its ``init_cfg`` names."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(config)
    if config.get('init_cfg'):
        model.init_weights()
    model.eval()
    return model


def prepared(task: dict) -> Callable[[], tuple[Tensor, ...]]:
    """A function that runs a backbone once on an image of noise."""
    model = build(task['config'])
    image = torch.randn(1, 3, *task['shape'])

    @torch.no_grad()
    def run() -> tuple[Tensor, ...]:
        return model(image)

    return run


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


def draw(rows: dict[str, dict], title: str, path: Path) -> None:
    """Distance from the first backbone against speed, a dot for each backbone that has a distance."""
    figure = Figure(figsize=(6, 3.6), dpi=120, layout='constrained')
    axes = figure.subplots()
    for i, (name, row) in enumerate(rows.items()):
        if row['distance'] is not None:
            place = (row['speed'], row['distance'])
            axes.plot(*place, 'o', color='tab:blue')
            axes.annotate(name, place, xytext=(-7, -4 if i % 2 else 4), textcoords='offset points', ha='right')
    axes.set(xlabel='times as fast as the first', ylabel='relative distance of the last map', title=title)
    axes.margins(x=0.3, y=0.15)
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    """Measure, print, write."""
    args = parse_args()
    if args.worker:
        return serve(prepared(json.loads(args.worker)))
    if args.peak_of:
        return print(peak_of(prepared(json.loads(args.peak_of))))
    configs = dict(read(text) for text in args.backbones)
    if not configs:
        raise InputError('name at least one backbone')
    tasks = {name: json.dumps({'config': config, 'shape': args.shape}) for name, config in configs.items()}
    workers = {name: Worker([sys.executable, __file__, '--worker', task]) for name, task in tasks.items()}
    rounds = [{name: worker.turn() for name, worker in workers.items()} for _ in range(args.repeats)]
    for worker in workers.values():
        worker.end()
    image = torch.randn(1, 3, *args.shape)
    if args.image:
        pixels = read_image(Path(args.image))
        if pixels is None:
            raise InputError(f"--image '{args.image}' is not an image that can be read")
        image = prepared_image(pixels, NORMALISED, args.shape)
    far = distances(configs, image)
    rows = {}
    for name, config in configs.items():
        model = build(config)
        kinds = count_kinds(model, lambda model=model: model(image))['']
        command = [sys.executable, __file__, '--peak-of', tasks[name]]
        peak = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1]
        times = sorted(each[name] for each in rounds)
        rows[name] = {
            'config': config,
            'seconds_median': statistics.median(times),
            'seconds_min': times[0],
            'seconds_max': times[-1],
            'peak_bytes': int(peak),
            'multiply_adds': kinds,
            'distance': far[name],
        }
    first = next(iter(rows.values()))
    print(f'1x3x{args.shape[0]}x{args.shape[1]}, {", ".join(f"{key} {value}" for key, value in machine().items())}')
    print('| backbone | seconds | speed | peak, MiB | multiply-adds, G | of the first | distance |')
    print('|---|---|---|---|---|---|---|')
    for name, row in rows.items():
        row['speed'] = first['seconds_median'] / row['seconds_median']
        adds, all_adds = sum(row['multiply_adds'].values()), sum(first['multiply_adds'].values())
        cells = [name, f'{row["seconds_median"]:.2f}', f'{row["speed"]:.2f}', f'{row["peak_bytes"] / 2**20:.0f}']
        cells += [f'{adds / 1e9:.1f}', f'{adds / all_adds:.2f}']
        cells += ['-' if row['distance'] is None else f'{row["distance"]:.3f}']
        print(f'| {" | ".join(cells)} |')
    if args.plot:
        draw(rows, f'1x3x{args.shape[0]}x{args.shape[1]}', args.plot)
    if args.json:
        content = {'machine': machine(), 'shape': args.shape, 'repeats': args.repeats, 'backbones': rows}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(content, indent=2) + '\n')


if __name__ == '__main__':
    run_tool(main)
