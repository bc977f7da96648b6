"""A config's training -> the same training in another number of iterations."""

import math

from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.registry import DATASETS

from mmsec.errors import InputError

_TIMES = ('begin', 'end', 'T_max', 'step_size')


def train_iterations(cfg: Config) -> int:
    """Iterations that a config trains for on one process. Where it counts epochs, its training data is read."""
    if 'max_iters' in cfg.train_cfg:
        return cfg.train_cfg.max_iters
    images = len(DATASETS.build(cfg.train_dataloader.dataset))
    return cfg.train_cfg.max_epochs * -(-images // cfg.train_dataloader.batch_size)


def train_in(cfg: Config, iterations: int) -> None:
    """Make a config train for a number of iterations, with its schedule of learning rates stretched to it.

    It then counts iterations, logs at least ten times, evaluates at the end and keeps the newest of four checkpoints.
    """
    in_epochs = 'max_epochs' in cfg.train_cfg
    whole = train_iterations(cfg)
    for scheduler in cfg.param_scheduler if isinstance(cfg.param_scheduler, list) else [cfg.param_scheduler]:
        of_epochs = in_epochs and scheduler.get('by_epoch', True)
        factor = iterations / (cfg.train_cfg.max_epochs if of_epochs else whole)
        for name in _TIMES:
            if scheduler.get(name) is not None:
                scheduler[name] = round(scheduler[name] * factor)
        if scheduler.get('end') is not None:
            scheduler.end = max(scheduler.end, scheduler.get('begin', 0) + 2)  # a warm-up of one step never rises
        if 'milestones' in scheduler:
            scheduler.milestones = [round(each * factor) for each in scheduler.milestones]
        scheduler.by_epoch = False
        scheduler.pop('convert_to_iter_based', None)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=iterations)
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=-(-iterations // 4), max_keep_ckpts=1, save_best=None)
    cfg.default_hooks.logger.interval = min(cfg.default_hooks.logger.get('interval', 10), -(-iterations // 10))
    cfg.log_processor = dict(cfg.get('log_processor') or {}, by_epoch=False)


def check_warm_up(cfg: Config, images: int | None) -> None:
    """Refuse a warm-up that never reaches its learning rate, longer than the run or of one step, and an empty part.

    Args:
        cfg (Config): With a schedule.
        images (int, optional): In an epoch of all processes; None where that is not known.
    """
    schedulers = cfg.get('param_scheduler') or []
    in_list = isinstance(schedulers, list | tuple)
    batch_size = cfg.train_dataloader.get('batch_size')
    if not (isinstance(batch_size, int) and batch_size > 0):  # the data loader complains
        return
    epoch = -(-images // (batch_size * get_world_size())) if images else None
    total = cfg.train_cfg.get('max_iters')
    if total is None and epoch:
        total = epoch * cfg.train_cfg.max_epochs
    for i, each in enumerate(schedulers if in_list else [schedulers]):
        kind = str(each.get('type', ''))
        rises = each.get('start_factor', 1 / 3) < each.get('end_factor', 1.0) if 'Linear' in kind else False
        rises |= 'Constant' in kind and each.get('factor', 1 / 3) < 1
        place = f'param_scheduler.{i}' if in_list else 'param_scheduler'
        begin, end, unit, whole = each.get('begin', 0), each.get('end', math.inf), 'iterations', total
        in_epochs = each.get('by_epoch', True)
        if end <= begin:
            raise InputError(
                f'{place} begins at {begin:g} and ends at {end:g}, and takes no step. Set {place}.end beyond that, '
                'or train longer'
            )
        if begin or not (rises or 'Warmup' in kind):
            continue
        steps = end * (epoch or 2) if in_epochs and each.get('convert_to_iter_based') else end
        if steps == 1 and rises:  # MMEngine reaches the end in end - begin - 1 steps
            raise InputError(
                f'{place}: the warm-up takes one step, and never leaves its first rate. Set {place}.end to two '
                'steps, or leave it out'
            )
        if in_epochs:
            unit, whole = 'epochs', cfg.train_cfg.get('max_epochs')
            if whole is None and epoch:
                whole = cfg.train_cfg.max_iters / epoch
        if whole is not None and end > whole:
            raise InputError(
                f'{place}: the warm-up takes {end:g} {unit}, the run has {whole:g}, and never reaches its learning '
                f'rate. Set {place}.end to a part of the run, or train longer'
            )
