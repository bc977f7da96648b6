"""Measure the table and the plot of docs/performance.md again; `make bench` runs it."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

TOOL = Path(__file__).with_name('benchmark_backbone.py')
TABLE = {
    'inference against the reference': '--against reference --share',
    'training step against the reference': '--mode train --shape 512 512 --batch 2 --against reference',
    'inference against Swin-T': '--clusters size --against swin_t --share',
    'inference against Swin-T, both compiled': '--clusters size --compile --against swin_t',
    'four times the tokens': '--clusters size --shape 1024 1024 --against quarter',
    'bfloat16 against float32, clusters of 98': '--clusters size --dtype bfloat16 --against float32',
    'bfloat16 against float32, published counts': '--dtype bfloat16 --against float32',
}
SIDES = (256, 512, 768, 1024)
LABELS = {'published': 'published counts', 'secvit': 'clusters of 98', 'swin_t': 'Swin-T'}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=Path('docs/performance'), help='JSON files (default: %(default)s)')
    parser.add_argument('--plot', type=Path, default=Path('docs/images/performance.png'), help='default: %(default)s')
    parser.add_argument('--repeats', type=int, default=5, help='timed rounds (default: %(default)s)')
    return parser.parse_args()


def measure(options: str, out: Path, repeats: int) -> dict:
    """One run of benchmark_backbone.py."""
    print(f'\n$ python tools/{TOOL.name} {options}', flush=True)
    subprocess.run([sys.executable, TOOL, *options.split(), '--repeats', str(repeats), '--json', out], check=True)
    return json.loads(out.read_text())


def draw(results: dict[int, dict], path: Path) -> None:
    """Time and memory against image size."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout='constrained')
    for name, label in LABELS.items():
        rows = [result['sides'][name] for result in results.values()]
        left.plot(results.keys(), [row['seconds_median'] for row in rows], marker='o', label=label)
        right.plot(results.keys(), [row['peak_bytes'] / 2**20 for row in rows], marker='o', label=label)
    for axes, title in ((left, 'seconds per image'), (right, 'peak memory, MiB')):
        axes.set(title=title, xlabel='side of a square image, pixels', xticks=SIDES, ylim=(0, None))
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(axis='y', alpha=0.3)
    left.legend(frameon=False)
    machine = next(iter(results.values()))['machine']
    figure.suptitle(
        f'SecViT-S and Swin-T, inference, float32, {machine["threads"]} cores of {machine["cpu"]}', fontsize='medium'
    )
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure and draw."""
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, options in TABLE.items():
        measure(options, args.out / f'{name.replace(",", "").replace(" ", "_")}.json', args.repeats)
    sweep = {
        side: measure(
            f'--clusters size --shape {side} {side} --against published swin_t',
            args.out / f'size_{side}.json',
            args.repeats,
        )
        for side in SIDES
    }
    draw(sweep, args.plot)
    print(f'\nplot: {args.plot}, figures: {args.out}')


if __name__ == '__main__':
    main()
