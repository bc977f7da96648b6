"""A config's training -> the same training in another number of iterations."""

from mmengine.config import Config
from mmengine.registry import DATASETS

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
        if 'milestones' in scheduler:
            scheduler.milestones = [round(each * factor) for each in scheduler.milestones]
        scheduler.by_epoch = False
        scheduler.pop('convert_to_iter_based', None)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=iterations)
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=-(-iterations // 4), max_keep_ckpts=1, save_best=None)
    cfg.default_hooks.logger.interval = min(cfg.default_hooks.logger.get('interval', 10), -(-iterations // 10))
    cfg.log_processor = dict(cfg.get('log_processor') or {}, by_epoch=False)
