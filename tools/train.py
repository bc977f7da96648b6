"""Train a detector, segmenter or classifier from a config of mmdetection, mmsegmentation or mmpretrain."""

import argparse
import os
import signal
from pathlib import Path

if __name__ == '__main__':
    # What tells a run to stop waits from here on until the run listens.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGUSR1))
    from mmsec.cli.openmp import choose_threads  # before torch loads OpenMP

    choose_threads()

from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.logging import print_log

from mmsec.cli.config import check_operators, complete_hooks, load_config, revert_sync_bn, runner_class
from mmsec.cli.data import check_data, check_paths
from mmsec.cli.heads import check_channels
from mmsec.cli.processor import optimize_on_cpu
from mmsec.cli.resume import check_same_run, go_on, newest_whole_checkpoint, options_of
from mmsec.cli.weights import check_frozen, check_start, check_weights
from mmsec.engine.hooks.no_detection import NoDetectionHook
from mmsec.engine.hooks.preemption import TOLD_BY, PreemptionHook
from mmsec.engine.hooks.rank_consistency import RankConsistencyHook
from mmsec.engine.hooks.run_summary import RunSummaryHook
from mmsec.engine.precision import set_tf32
from mmsec.engine.processes import check_same, from_first, join_processes, run
from mmsec.engine.work_dir import hold, survive_full_output
from mmsec.errors import InputError
from mmsec.models.checkpoints.reading import read_checkpoint

AMP = {
    'fp16': dict(type='AmpOptimWrapper', loss_scale='dynamic', dtype='float16'),
    'bf16': dict(type='mmsec.BFloat16OptimWrapper'),
}
PATIENCE = (
    120  # seconds: an NFS server keeps the lock of a machine that died so long, and a run that ends takes a while
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for checkpoints and logs (default: work_dirs/<config name>)')
    parser.add_argument('--amp', nargs='?', const='fp16', choices=AMP, help='mixed precision; fp16 if no type is given')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='auto|PATH',
        help='go on from PATH, or from the newest checkpoint in the work dir if no path is given',
    )
    parser.add_argument(
        '--restarted',
        action='store_true',
        help='go on from the newest checkpoint in the work dir; if there is none, do what --resume says',
    )
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
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def configure(args: argparse.Namespace) -> Config:
    """The config that the command line asks for, checked; the processes of a launcher are connected."""
    cfg = load_config(args.config, args.cfg_options)
    runner_class(cfg)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    if args.amp:
        kept = {key: value for key, value in cfg.optim_wrapper.items() if key not in ('type', 'dtype', 'loss_scale')}
        cfg.optim_wrapper = AMP[args.amp] | kept
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise InputError(f"--auto-scale-lr: config '{args.config}' has no auto_scale_lr.base_batch_size")
        cfg.auto_scale_lr.enable = True
    check_channels(cfg)
    check_paths(cfg, 'train', 'val')
    join_processes(cfg)
    check_same(options_of(cfg), 'They need one config')
    from_first(lambda: hold(cfg.work_dir, patience=PATIENCE if args.restarted else 0))
    from_first(lambda: check_data(cfg, 'train', 'val'))
    found = from_first(lambda: find_checkpoint(args, cfg.work_dir))
    if found:
        go_on(cfg, *found)
    check_weights(cfg)
    check_frozen(cfg)
    revert_sync_bn(cfg, args.launcher)
    if found and found[0] != args.resume:
        from_first(lambda: check_same_run(cfg, *found))
    return cfg


def find_checkpoint(args: argparse.Namespace, work_dir: str) -> tuple[str, dict] | None:
    """The checkpoint to go on from and its ``meta``, if the command line asks for one."""
    if args.resume == 'auto' or args.restarted:
        found = newest_whole_checkpoint(work_dir)
        if found:
            return found
    if args.resume and args.resume != 'auto':
        return args.resume, read_checkpoint(args.resume).get('meta', {})
    if args.resume or args.restarted:
        print_log(f"no checkpoint in '{work_dir}', the run starts from scratch", 'current')
    return None


def main() -> None:
    """Train."""
    args = parse_args()
    survive_full_output()
    check_operators(get_device())
    cfg = configure(args)
    runner = runner_class(cfg).from_cfg(cfg)
    set_tf32(args.tf32)  # here, where the run has its log
    optimize_on_cpu(runner.model)
    runner.register_hook(RankConsistencyHook())
    runner.register_hook(NoDetectionHook())
    runner.register_hook(RunSummaryHook())
    complete_hooks(runner)
    check_start(runner)
    if not any(isinstance(hook, PreemptionHook) for hook in runner.hooks):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD_BY)
    runner.train()


if __name__ == '__main__':
    run(main)
