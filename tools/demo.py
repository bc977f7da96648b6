"""The main job on generated data: train and evaluate SecViT in Mask R-CNN and UperNet on this machine's CPU."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

TOOLS = Path(__file__).parent
ROOT = TOOLS.parent
DATA = ROOT / 'data/shapes'
RUNS = {
    'mmdet': (
        'secvit_t_maskrcnn_shapes',
        {f'{kind}_mAP{iou}': f'coco/{kind}_mAP{iou}' for kind in ('bbox', 'segm') for iou in ('', '_50')},
    ),
    'mmseg': ('secvit_t_upernet_shapes', {'mIoU': 'mIoU'}),
}
LABELS = {
    'bbox_mAP': 'box AP',
    'bbox_mAP_50': 'box AP50',
    'segm_mAP': 'mask AP',
    'segm_mAP_50': 'mask AP50',
    'mIoU': 'mIoU',
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--work-dir', default='work_dirs/demo', help='where everything goes (default: %(default)s)')
    parser.add_argument('--train', type=int, default=1000, help='training images (default: %(default)s)')
    parser.add_argument('--val', type=int, default=100, help='unseen images to evaluate on (default: %(default)s)')
    return parser.parse_args()


def run(tool: str, *args: object) -> None:
    """Run one of the project's tools; stop with its exit code if it fails."""
    command = [sys.executable, str(TOOLS / tool), *map(str, args)]
    print('\n$', ' '.join(['python', f'tools/{tool}', *command[2:]]), flush=True)
    code = subprocess.run(command, cwd=ROOT).returncode
    if code:
        sys.exit(code)


def main() -> None:
    """Run the demo."""
    args = parse_args()
    work_dir = Path(args.work_dir).resolve()
    run('make_shapes.py', DATA, '--train', args.train, '--val', args.val)
    results: dict[str, float] = {}
    minutes: dict[str, float] = {}
    pictures: dict[str, Path] = {}
    for host, (name, keys) in RUNS.items():
        start = time.monotonic()
        config, out = f'configs/{host}/{name}.py', work_dir / name
        run('train.py', config, '--work-dir', out)
        checkpoint = Path((out / 'last_checkpoint').read_text())
        pictures[host] = out / 'pictures'
        metrics = out / 'metrics.json'
        run('test.py', config, checkpoint, '--work-dir', out, '--show-dir', pictures[host], '--out', metrics)
        minutes[host] = (time.monotonic() - start) / 60
        measured = json.loads(metrics.read_text())
        percent = 100 if host == 'mmseg' else 1  # mmsegmentation reports percent, mmdetection fractions
        results |= {key: measured[source] / percent for key, source in keys.items()}
    results['minutes'] = round(sum(minutes.values()), 1)
    (work_dir / 'results.json').write_text(json.dumps(results, indent=2) + '\n')
    print(f'\n{"measured on " + str(args.val) + " unseen images":<32}')
    for key, label in LABELS.items():
        print(f'  {label:<12} {results[key]:.3f}')
    for host, value in minutes.items():
        print(f'  {"minutes":<12} {value:.1f} ({RUNS[host][0]}: training and evaluation)')
    print(f'\nresults: {work_dir / "results.json"}')
    for host, folder in pictures.items():
        print(f'pictures, truth left and prediction right ({host}): {folder}')
    for host, folder in pictures.items():
        print(f'contact sheet of truth, prediction and clusters ({host}): {folder / "contact_sheet.png"}')


if __name__ == '__main__':
    main()
