"""Evaluate a checkpoint: COCO box and mask AP for mmdetection, mIoU for mmsegmentation, top-1 for mmpretrain."""

import argparse
import os
import shlex
from pathlib import Path

if __name__ == '__main__':  # before torch loads OpenMP
    from mmsec.cli.openmp import choose_threads

    choose_threads()

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.device import get_device
from mmengine.registry import METRICS

from mmsec.cli.config import check_operators, dicts_of, load_config, revert_sync_bn, runner_class
from mmsec.cli.data import check_data, check_paths
from mmsec.cli.heads import check_channels
from mmsec.cli.processor import optimize_on_cpu
from mmsec.cli.weights import load_trained
from mmsec.datasets.wrappers import inner_datasets
from mmsec.engine.files import to_json, write_whole
from mmsec.engine.hooks.no_detection import NoDetectionHook
from mmsec.engine.hooks.prediction_visualization import PredictionVisualizationHook
from mmsec.engine.hooks.run_summary import block
from mmsec.engine.precision import set_tf32
from mmsec.engine.processes import from_first, join_processes, run
from mmsec.errors import InputError
from mmsec.evaluation.dump import DumpLabels
from mmsec.models.checkpoints.reading import read_checkpoint

DUMPS = {'mmdet': 'mmdet.DumpDetResults', 'mmseg': DumpLabels}  # of --out FILE.pkl


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint trained with it; for mmpretrain also a published one')
    parser.add_argument('--work-dir', help='folder for logs (default: work_dirs/<config name>)')
    parser.add_argument('--show-dir', metavar='DIR', help='draw truth beside prediction for every image into DIR')
    parser.add_argument('--out', metavar='FILE', help='write the metrics to FILE.json or the predictions to FILE.pkl')
    parser.add_argument('--logits', action='store_true', help='keep the logits of a segmentor in --out FILE.pkl')
    parser.add_argument('--tta', action='store_true', help='test at several scales and flipped (mmsegmentation)')
    parser.add_argument(
        '--tf32',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='float32 products and convolutions in TF32, on GPUs that have it',
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs that override the config')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.out and Path(args.out).suffix not in ('.json', '.pkl'):
        parser.error(f'--out must end in .json (metrics) or .pkl (predictions), got {args.out}')
    if args.logits and not (args.out or '').endswith('.pkl'):
        parser.error('--logits is for --out FILE.pkl')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def configure(args: argparse.Namespace) -> Config:
    """The config that the command line asks for, checked."""
    cfg = load_config(args.config, args.cfg_options)
    runner_class(cfg)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    cfg.load_from, cfg.resume = None, False
    if args.tta:
        augment(cfg)
    if args.show_dir and cfg.default_scope == 'mmpretrain':
        raise InputError('--show-dir draws what detectors and segmenters predict; a classifier predicts no picture')
    check_channels(cfg)
    check_paths(cfg, 'test')
    revert_sync_bn(cfg, args.launcher)
    return cfg


def augment(cfg: Config) -> None:
    """Make a config test at the scales and flips of its ``tta_pipeline``."""
    missing = [name for name in ('tta_model', 'tta_pipeline') if not cfg.get(name)]
    masks = any('mask' in name and name.endswith('head') for _, part in dicts_of(cfg.model) for name in part)
    if cfg.default_scope == 'mmdet' and (missing or (masks and str(cfg.tta_model.type).endswith('DetTTAModel'))):
        raise InputError(
            f"--tta: '{cfg.filename}' has no test-time augmentation: mmdetection merges boxes, and no masks such as a "
            'Mask R-CNN has'
            if masks
            else f"--tta: '{cfg.filename}' has no {' and '.join(missing)}; mmdetection's DetTTAModel is one"
        )
    if missing:
        raise InputError(f"--tta: config '{cfg.filename}' has no {' and '.join(missing)}")
    for dataset in inner_datasets(cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def main() -> None:
    """Evaluate."""
    args = parse_args()
    check_operators(get_device())
    cfg = configure(args)
    checkpoint = read_checkpoint(args.checkpoint)
    join_processes(cfg)
    from_first(lambda: check_data(cfg, 'test'))
    runner = runner_class(cfg).from_cfg(cfg)
    set_tf32(args.tf32)  # here, where the run has its log
    optimize_on_cpu(runner.model)
    runner.register_hook(NoDetectionHook())
    if args.show_dir:
        runner.register_hook(PredictionVisualizationHook(args.show_dir))
    if args.out and args.out.endswith('.pkl'):
        kind = DUMPS.get(cfg.default_scope, 'DumpResults') if not args.logits else 'DumpResults'
        runner.test_evaluator.metrics.append(METRICS.build(dict(type=kind, out_file_path=args.out)))
    load_trained(runner, checkpoint, args.checkpoint)
    metrics = runner.test()
    if args.out and args.out.endswith('.json') and runner.rank == 0:
        write_whole(args.out, f'{to_json(metrics, 2)}\n'.encode())
    rows = {'results': args.out, 'pictures': args.show_dir, 'logs': runner.log_dir}
    command = ['python', 'tools/infer.py', 'IMAGES', args.config, args.checkpoint, '--out', 'DIR']
    if args.cfg_options:
        command += ['--cfg-options', *(f'{name}={value}' for name, value in args.cfg_options.items())]
    if cfg.default_scope == 'mmpretrain':
        weights = f'model.backbone.init_cfg.checkpoint={args.checkpoint}'
        command = ['python', 'tools/train.py', 'CONFIG', '--cfg-options', weights]
    rows['next'] = shlex.join(command)
    runner.logger.info(block('the test is over', {name: value for name, value in rows.items() if value}))


if __name__ == '__main__':
    run(main)
