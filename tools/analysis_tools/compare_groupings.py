"""Train one config with each way of grouping tokens, same data, seeds and cost, and say what comes out."""

import argparse
import copy
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmark_backbone import machine
from get_flops import count
from matplotlib.figure import Figure
from mmengine.config import Config, DictAction
from mmengine.registry import DATASETS
from mmengine.utils import get_git_hash
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import mmsec
from mmsec.cli.config import load_config
from mmsec.cli.data import check_data
from mmsec.cli.grouping import backbone_options
from mmsec.cli.options import naming_misspelt_options
from mmsec.cli.schedule import train_in, train_iterations
from mmsec.cli.weights import build_backbone
from mmsec.engine.files import write_whole
from mmsec.engine.processes import run
from mmsec.errors import InputError
from mmsec.evaluation.clusters import BASELINES

TOOLS = Path(__file__).parents[1]
METRICS = ('mIoU', 'coco/segm_mAP', 'coco/bbox_mAP', 'accuracy/top1')  # the first that there is goes into the table


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config with a backbone that groups tokens')
    parser.add_argument(
        '--groupings',
        nargs='+',
        required=True,
        metavar='GROUPING',
        help="names, with options in one word each, such as 'WindowGrouping shift=True' or "
        "'SemanticGrouping num_clusters=16,4,1,1'",
    )
    parser.add_argument('--seeds', type=int, default=3, metavar='N', help='seeds 0 to N - 1 (default: %(default)s)')
    parser.add_argument('--iters', type=int, metavar='K', help="iterations (default: the config's)")
    parser.add_argument('--images', type=int, default=200, metavar='N', help='for NMI (default: %(default)s)')
    parser.add_argument('--out', type=Path, metavar='DIR', help='default: work_dirs/<config name>/groupings')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs that override the config')
    args = parser.parse_args()
    for name in ('seeds', 'iters', 'images'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f'--{name} must be at least 1, got {getattr(args, name)}')
    args.out = args.out or Path('work_dirs') / Path(args.config).stem / 'groupings'
    return args


class RunError(Exception):
    """A tool of the project failed."""


def run_configs(args: argparse.Namespace) -> dict[tuple[str, int], Config]:
    """The config of each run, by grouping and seed."""
    base = load_config(args.config, args.cfg_options)
    check_data(base, 'train', 'val', 'test')
    with naming_misspelt_options(base):
        if args.iters:
            train_in(base, args.iters)
    configs = {}
    for text in args.groupings:
        cfg = copy.deepcopy(base)
        cfg.model.backbone = dict(cfg.model.backbone, **backbone_options(text))
        with naming_misspelt_options(cfg):
            build_backbone(cfg, None)
        for seed in range(args.seeds):
            configs[text, seed] = copy.deepcopy(cfg)
            configs[text, seed].randomness = dict(cfg.get('randomness') or {}, seed=seed)
    return configs


def scalars(folder: Path) -> list[dict]:
    """What a run has logged while it trained, in all its sittings."""
    lines = [line for path in sorted(folder.glob('*/vis_data/scalars.json')) for line in path.read_text().splitlines()]
    rows = [json.loads(line) for line in lines if line.endswith('}')]  # the last one may be half written
    return [row for row in rows if 'loss' in row]


def call(command: list[object], log: Path, watch: Callable[[], None]) -> int:
    """Run a tool of the project, with its output in a file, and call ``watch`` once a second.

    Returns:
        int: Its peak memory in bytes.

    Raises:
        RunError: If it fails; the message is its last line.
    """
    with log.open('a') as file:
        process = subprocess.Popen([sys.executable, *map(str, command)], stdout=file, stderr=subprocess.STDOUT)
    try:
        ended = 0
        while not ended:
            time.sleep(1)
            watch()
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    except BaseException:
        process.terminate()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = [line for line in log.read_text(errors='replace').splitlines() if line.strip()]
        raise RunError(f'exit code {process.returncode}: {lines[-1] if lines else "no output"}')
    return usage.ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


def train_and_measure(folder: Path, images: int, watch: Callable[[], None]) -> dict:
    """Train, evaluate and look at the clusters of one run; what an earlier sitting has done is not done again."""
    config, log = folder.with_suffix('.py'), folder / 'log.txt'
    memory = call([TOOLS / 'train.py', config, '--work-dir', folder, '--resume'], log, watch)
    checkpoint = (folder / 'last_checkpoint').read_text()
    metrics, analysis = folder / 'metrics.json', folder / 'clusters'
    call([TOOLS / 'test.py', config, checkpoint, '--work-dir', folder, '--out', metrics], log, watch)
    look = [TOOLS / 'analysis_tools/analyze_clusters.py', config, checkpoint, '--images', images, '--out', analysis]
    try:
        call(look, log, watch)
        rows = json.loads((analysis / 'analysis.json').read_text())['rows']
    except RunError as error:
        if 'no image with clusters to compare' not in str(error):  # one cluster has nothing to do with labels
            raise
        rows = []
    nmi = [row['nmi_classes'] for row in rows if row['grouping'] not in BASELINES and row['nmi_classes'] is not None]
    logged = scalars(folder)
    on_gpu = [row['memory'] * 2**20 for row in logged if 'memory' in row]  # mmengine counts MiB
    return {
        'metrics': json.loads(metrics.read_text()),
        'seconds_per_iteration': statistics.median(row['time'] for row in logged) if logged else None,
        'peak_bytes': max(on_gpu, default=memory),
        'nmi': statistics.mean(nmi) if nmi else None,
        'loss': [[row['step'], row['loss']] for row in logged],
    }


def multiply_adds(cfg: Config) -> int:
    """Multiply-adds of the backbone for an image of the test data; what finds the clusters is not counted."""
    with naming_misspelt_options(cfg):
        image = DATASETS.build(cfg.test_dataloader.dataset)[0]['inputs']
    backbone = build_backbone(cfg, None)
    return count(backbone, lambda: backbone(image[None].float()))['']


def run_all(args: argparse.Namespace) -> dict[str, dict[int, dict]]:
    """Every grouping with every seed, one after the other.

    Returns:
        dict[str, dict[int, dict]]: Results by grouping and seed; ``{'failed': REASON}`` for a run that failed.

    Raises:
        InputError: If the folder holds a run of another config.
    """
    configs = run_configs(args)
    results: dict[str, dict[int, dict]] = {text: {} for text in args.groupings}
    adds: dict[str, int] = {}
    total = train_iterations(next(iter(configs.values())))
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task('', total=total * len(configs))
        for number, ((text, seed), cfg) in enumerate(configs.items()):
            folder = args.out / re.sub(r'[^\w.,=-]+', '_', text) / f'seed{seed}'
            # Beside the work dir, in which MMEngine writes what it has made of the config.
            config, result = folder.with_suffix('.py'), folder / 'result.json'
            progress.update(task, description=f'{text}, seed {seed}', completed=number * total)
            if config.is_file() and config.read_text() != cfg.pretty_text:
                raise InputError(f"'{folder}' holds a run of another config; name another --out, or delete it")
            write_whole(config, cfg.pretty_text.encode())
            folder.mkdir(exist_ok=True)

            def watch(folder: Path = folder, done: int = number * total) -> None:
                progress.update(task, completed=done + max((row['step'] for row in scalars(folder)), default=0))

            found = json.loads(result.read_text()) if result.is_file() else {'failed': 'not run yet'}
            if 'failed' in found:
                adds[text] = adds.get(text) or multiply_adds(cfg)
                try:
                    found = train_and_measure(folder, args.images, watch) | {'multiply_adds': adds[text]}
                except RunError as error:
                    found = {'failed': f'{error} ({folder / "log.txt"})'}
                write_whole(result, (json.dumps(found) + '\n').encode())
            results[text][seed] = found
        progress.update(task, completed=total * len(configs))
    return results


def summary(results: dict[str, dict[int, dict]]) -> tuple[str, dict[str, dict]]:
    """The metric that is compared, and of each grouping its mean and spread, cost and NMI."""
    good = [found for runs in results.values() for found in runs.values() if 'failed' not in found]
    if not good:
        reasons = [found['failed'] for runs in results.values() for found in runs.values()]
        raise InputError(f'every run failed; the first: {reasons[0]}')
    names = good[0]['metrics']
    metric = next((name for name in METRICS if name in names), next(iter(names)))
    rows = {}
    for text, runs in results.items():
        finished = [found for found in runs.values() if 'failed' not in found]
        values = [found['metrics'][metric] for found in finished]
        nmi = [found['nmi'] for found in finished if found['nmi'] is not None]
        seconds = [found['seconds_per_iteration'] for found in finished if found['seconds_per_iteration']]
        rows[text] = {
            'values': values,
            'mean': statistics.mean(values) if values else None,
            'std': statistics.stdev(values) if len(values) > 1 else None,
            'seconds_per_iteration': statistics.median(seconds) if seconds else None,
            'peak_bytes': max((each['peak_bytes'] for each in finished), default=None),
            'multiply_adds': finished[0]['multiply_adds'] if finished else None,
            'nmi': statistics.mean(nmi) if nmi else None,
            'failed': {seed: found['failed'] for seed, found in runs.items() if 'failed' in found},
        }
    return metric, rows


def table(metric: str, rows: dict[str, dict]) -> str:
    """Markdown: a line for each grouping, as they were given."""

    def shown(value: float | None, pattern: str, unit: float = 1) -> str:
        return '-' if value is None else format(value / unit, pattern)

    lines = [
        f'| grouping | {metric}, mean | std over seeds | seeds | s an iteration | peak MiB | multiply-adds, G | NMI |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for text, row in rows.items():
        cells = [
            text,
            shown(row['mean'], '.4g'),
            shown(row['std'], '.2g'),
            f'{len(row["values"])}' + (f', {len(row["failed"])} failed' if row['failed'] else ''),
            shown(row['seconds_per_iteration'], '.3f'),
            shown(row['peak_bytes'], '.0f', 2**20),
            shown(row['multiply_adds'], '.3f', 1e9),
            shown(row['nmi'], '.3f'),
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def draw(metric: str, rows: dict[str, dict], path: Path) -> None:
    """A line for each grouping: a dot for each seed and a bar at their mean, and what it costs."""
    figure = Figure(figsize=(10, 1.2 + 0.4 * len(rows)), dpi=120, layout='constrained')
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    for place, row in enumerate(rows.values()):
        left.plot(row['values'], [place] * len(row['values']), 'o', color='tab:blue', alpha=0.6)
        if row['values']:
            left.plot([row['mean']] * 2, [place - 0.3, place + 0.3], color='black')
            right.barh(place, row['seconds_per_iteration'] or 0, color='tab:gray', height=0.6)
    left.set_yticks(range(len(rows)), rows)
    left.invert_yaxis()
    left.set_xlabel(f'{metric}: a dot for each seed, a bar at the mean')
    right.set_xlabel('seconds an iteration')
    for axes in (left, right):
        axes.grid(axis='x', alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    figure.savefig(path)


def main() -> None:
    """Train, measure, print, write."""
    args = parse_args()
    results = run_all(args)
    metric, rows = summary(results)
    text = table(metric, rows)
    print(text)
    for name, row in rows.items():
        for seed, reason in row['failed'].items():
            print(f'failed: {name}, seed {seed}: {reason}')
    settings = {name: getattr(args, name) for name in ('config', 'seeds', 'iters', 'images', 'cfg_options')}
    where = machine() | {'mmsec': mmsec.__version__, 'git': get_git_hash(digits=12)}
    content = {'settings': settings, 'machine': where, 'metric': metric, 'summary': rows, 'runs': results}
    write_whole(args.out / 'comparison.json', (json.dumps(content, indent=1) + '\n').encode())
    (args.out / 'comparison.md').write_text(text + '\n')
    draw(metric, rows, args.out / 'comparison.png')
    print(f'table, figures and picture: {args.out / "comparison"}.md, .json, .png')


if __name__ == '__main__':
    run(main)
