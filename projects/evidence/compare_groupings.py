"""Train one config with each way of grouping tokens, same data, seeds and cost, and say what comes out."""

import argparse
import copy
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from mmengine.config import Config, DictAction
from training_rows import Measurement, Rows, Run, Trained, cost
from training_runs import TOOLS, RunError, run_all

from mmsec.cli.config import load_config
from mmsec.cli.data import check_data
from mmsec.cli.grouping import backbone_options
from mmsec.cli.schedule import train_in
from mmsec.cli.weights import build_backbone
from mmsec.engine.files import write_whole
from mmsec.engine.processes import run
from mmsec.errors import InputError
from mmsec.evaluation.clusters import BASELINES

METRICS = ('mIoU', 'coco/segm_mAP', 'coco/bbox_mAP', 'accuracy/top1')  # the first that there is goes into the table


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config with a backbone that groups tokens')
    words = "names, with options in one word: 'WindowGrouping shift=True', 'SemanticGrouping num_clusters=16,4,1,1'"
    parser.add_argument('--groupings', nargs='+', required=True, metavar='GROUPING', help=words)
    parser.add_argument('--seeds', type=int, default=3, metavar='N', help='seeds 0 to N - 1 (default: %(default)s)')
    parser.add_argument('--iters', type=int, metavar='K', help="iterations (default: the config's)")
    parser.add_argument('--images', type=int, default=200, metavar='N', help='for AMI (default: %(default)s)')
    parser.add_argument('--jobs', type=int, default=1, metavar='N', help='runs at the same time (default: %(default)s)')
    parser.add_argument('--out', type=Path, metavar='DIR', help='default: work_dirs/<config name>/groupings')
    parser.add_argument('--work-dir', type=Path, help='for checkpoints and logs (default: that of --out)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs that override the config')
    args = parser.parse_args()
    for name in ('seeds', 'iters', 'images', 'jobs'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f'--{name} must be at least 1, got {getattr(args, name)}')
    args.out = args.out or Path('work_dirs') / Path(args.config).stem / 'groupings'
    args.work_dir = args.work_dir or args.out
    return args


class Comparison(Rows):
    """Runs of groupings, and what is said of them, in ``comparison.json``."""

    def __init__(self, out: Path, work_dir: Path, settings: dict) -> None:
        super().__init__(out / 'comparison.json', work_dir)
        self.settings = settings

    def content(self) -> dict:
        """With the summary of all runs that are finished."""
        metric, rows = summary(self.runs)
        return {'settings': self.settings, 'metric': metric, 'summary': rows} | super().content()


def runs_of(
    base: Config, groupings: Sequence[str], seeds: Sequence[int], measurements: Sequence[Measurement] = ()
) -> list[Run]:
    """A run of a config for each grouping and seed."""
    runs = []
    for text in groupings:
        cfg = copy.deepcopy(base)
        cfg.model.backbone = dict(cfg.model.backbone, **backbone_options(text))
        build_backbone(copy.deepcopy(cfg), None)
        for seed in seeds:
            seeded = copy.deepcopy(cfg)
            seeded.randomness = dict(cfg.get('randomness') or {}, seed=seed)
            runs.append(Run(text, seed, seeded, cost, measurements))
    return runs


def ami_with_classes(images: int) -> Measurement:
    """The mean AMI of clusters with classes, over stages and heads; None where there is only one cluster."""

    def measure(trained: Trained) -> dict:
        out = trained.folder / 'clusters'
        tool = TOOLS / 'analysis_tools/analyze_clusters.py'
        try:
            trained.call([tool, trained.config, trained.checkpoint, '--images', images, '--out', out])
            rows = json.loads((out / 'analysis.json').read_text())['rows']
        except RunError as error:
            if 'no image with clusters to compare' not in str(error):  # one cluster has nothing to do with labels
                raise
            rows = []
        ami = [each['ami_classes'] for each in rows if each['grouping'] not in BASELINES]
        known = [value for value in ami if value is not None]
        return {'ami': statistics.mean(known) if known else None}

    return measure


def place_of(row: dict) -> str:
    """Where a run was: the GPU, or the processor where there is none, and the number of threads."""
    return f'{row["gpu"] or row["cpu"]}, threads: {row["threads"]}'


def summary(results: dict[str, dict[str, dict]]) -> tuple[str | None, dict[str, dict]]:
    """The metric that is compared, None if every run failed, and of each grouping its mean and spread, cost and AMI."""
    good = [found for runs in results.values() for found in runs.values() if 'failed' not in found]
    names = good[0]['metrics'] if good else {}
    metric = next((name for name in (*METRICS, *names) if name in names), None)
    place = statistics.mode(map(place_of, good)) if good else None
    rows = {}
    for text, runs in results.items():
        finished = [found for found in runs.values() if 'failed' not in found]
        values = [found['metrics'][metric] for found in finished]
        ami = [found['ami'] for found in finished if found['ami'] is not None]
        timed = [found for found in finished if found['seconds_per_iteration'] and place_of(found) == place]
        seconds = [found['seconds_per_iteration'] for found in timed]
        rows[text] = {
            'values': values,
            'mean': statistics.mean(values) if values else None,
            'std': statistics.stdev(values) if len(values) > 1 else None,
            'seconds_per_iteration': statistics.median(seconds) if seconds else None,
            'timed_on': place if seconds else None,
            'peak_bytes': max((each['peak_bytes'] for each in finished), default=None),
            'multiply_adds': finished[0]['multiply_adds'] if finished else None,
            'ami': statistics.mean(ami) if ami else None,
            'failed': {seed: found['failed'] for seed, found in runs.items() if 'failed' in found},
        }
    return metric, rows


def line(cells: Sequence[str]) -> str:
    """A line of a table."""
    return f'| {" | ".join(cell.replace("|", "/") for cell in cells)} |'


def head(cells: Sequence[str]) -> list[str]:
    """The first two lines of a table."""
    return [line(cells), '|' + '---|' * len(cells)]


def number(value: float | None, pattern: str, unit: float = 1) -> str:
    """A number in a table."""
    return '-' if value is None else format(value / unit, pattern)


def table(metric: str, rows: dict[str, dict]) -> str:
    """Markdown: a line for each grouping, as they were given."""
    titles = [f'{metric}, mean', 'std over seeds', 'seeds', 's per iteration', 'peak MiB', 'multiply-adds, G', 'AMI']
    lines = head(['grouping', *titles])
    for text, row in rows.items():
        seeds = f'{len(row["values"])}' + (f', {len(row["failed"])} failed' if row['failed'] else '')
        cells = [text, number(row['mean'], '.4g'), number(row['std'], '.2g'), seeds]
        cells += [number(row['seconds_per_iteration'], '.3f'), number(row['peak_bytes'], '.0f', 2**20)]
        lines.append(line([*cells, number(row['multiply_adds'], '.3f', 1e9), number(row['ami'], '.3f')]))
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
    right.set_xlabel('seconds per iteration')
    for axes in (left, right):
        axes.grid(axis='x', alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    figure.savefig(path)


def main() -> None:
    """Train, measure, print, write."""
    args = parse_args()
    base = load_config(args.config, args.cfg_options)
    check_data(base, 'train', 'val', 'test')
    if args.iters:
        train_in(base, args.iters)
    settings = {name: getattr(args, name) for name in ('config', 'seeds', 'iters', 'images', 'cfg_options')}
    found = Comparison(args.out, args.work_dir, settings)
    runs = runs_of(base, args.groupings, range(args.seeds), [ami_with_classes(args.images)])
    run_all([(found, each) for each in runs], args.jobs)
    results: dict[str, dict[str, dict]] = {}
    for each in runs:  # the file may have more
        results.setdefault(each.name, {})[str(each.seed)] = found.runs[each.name][str(each.seed)]
    metric, rows = summary(results)
    if metric is None:
        reasons = [each['failed'] for seeds in results.values() for each in seeds.values()]
        raise InputError(f'every run failed; the first: {reasons[0]}')
    text = table(metric, rows)
    print(text)
    for name, row in rows.items():
        for seed, reason in row['failed'].items():
            print(f'failed: {name}, seed {seed}: {reason}')
    write_whole(args.out / 'comparison.md', f'{text}\n'.encode())
    draw(metric, rows, args.out / 'comparison.png')
    print(f'table, figures and picture: {args.out / "comparison"}.md, .json, .png')


if __name__ == '__main__':
    run(main)
