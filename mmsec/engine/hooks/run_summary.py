"""What a training run is about to do, and where its results are, in a block each."""

import shlex
from pathlib import Path

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsec.registry import HOOKS

_BATCH = 'effective_batch'


@HOOKS.register_module()
class RunSummaryHook(Hook):
    """Log effective batch size, learning rate, parameters, device and dtype when training starts, and what is where
    when it is over, with the command that comes next.

    A learning rate is for a batch size: the config's for ``auto_scale_lr.base_batch_size``. Where the effective batch
    size is another, the hook warns, or, under ``auto_scale_lr.enable``, scales the rate. MMEngine scales it too, but
    leaves accumulated batches out, and a resumed run gets the rate of its checkpoint all the same. Which batch size the
    rate is for is therefore kept in checkpoints.
    """

    def before_train(self, runner: Runner) -> None:
        """Fit the learning rate and log the block, once, on the first process."""
        wrapper = runner.optim_wrapper
        loader = runner.train_dataloader
        per_process = loader.batch_size or loader.batch_sampler.batch_size  # the first is None under a batch sampler
        world, accumulate = get_world_size(), wrapper._accumulative_counts
        self._fit_learning_rate(runner, per_process, world, accumulate)
        parameters = list(runner.model.parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        frozen = sum(p.numel() for p in parameters) - trained
        groups = wrapper.optimizer.param_groups
        rates = sorted({group.get('initial_lr', group['lr']) for group in groups})
        spread = f'{rates[0]:g} to ' * (len(rates) > 1)
        rows = {
            'batch size': f'{per_process * world * accumulate} = {per_process} an iteration and process'
            f' x {world} processes x {accumulate} accumulated',
            'learning rate': f'{spread}{rates[-1]:g} ({type(wrapper.optimizer).__name__})',
            'parameters': f'{trained:,} trained, {frozen:,} frozen',
            'device': str(parameters[0].device),
            'dtype': str(getattr(wrapper, 'cast_dtype', None) or parameters[0].dtype).removeprefix('torch.'),
            'work dir': runner.work_dir,
            'config': _config(runner),
        }
        runner.logger.info(block('training starts', rows))

    def after_run(self, runner: Runner) -> None:
        """Say where checkpoints and logs are, and how to go on."""
        pointer = Path(runner.work_dir, 'last_checkpoint')
        newest = pointer.read_text().strip() if pointer.is_file() else None
        best = {name: path for name, path in runner.message_hub.runtime_info.items() if name.startswith('best_ckpt')}
        rows = {'checkpoint': newest or 'none was saved', **best, 'logs': runner.log_dir}
        if newest:
            rows['next'] = f'python tools/test.py {shlex.quote(_config(runner))} {shlex.quote(newest)}'
        runner.logger.info(block('training is over', rows))

    def _fit_learning_rate(self, runner: Runner, per_process: int, world: int, accumulate: int) -> None:
        """Scale the learning rate to the batch size where that is asked for, and say where it is for another."""
        scales = (runner.auto_scale_lr or {}).get('enable', False)
        batch_size = per_process * world * accumulate
        if runner.iter == 0:
            rate_for = per_process * world if scales else (runner.auto_scale_lr or {}).get('base_batch_size')
        else:
            saved = runner.message_hub.runtime_info.get(_BATCH, {})
            rate_for = saved.get('learning_rate_for')
            if saved and (saved['size'], saved['processes']) != (batch_size, world):
                runner.logger.warning(
                    f'the run goes on with a batch size of {batch_size} on {world} processes; its checkpoint was made '
                    f'with {saved["size"]} on {saved["processes"]}. What is counted in iterations, such as warm-up and '
                    'the length of iteration-based training, keeps its number of iterations'
                )
            if scales and not rate_for:
                runner.logger.warning(
                    '--auto-scale-lr: the checkpoint does not say which batch size its learning rate is for, and the '
                    'rate stays as it is'
                )
        if rate_for and rate_for != batch_size:
            if scales:
                _scale(runner, batch_size / rate_for)
                runner.logger.info(
                    f'the learning rate was for a batch size of {rate_for}; times {batch_size / rate_for:g} it is for '
                    f'{batch_size}'
                )
                rate_for = batch_size
            else:
                runner.logger.warning(
                    f'the effective batch size is {batch_size}, and the learning rate is for {rate_for} '
                    '(auto_scale_lr.base_batch_size); --auto-scale-lr fits it'
                )
        runner.message_hub.update_info(_BATCH, {'size': batch_size, 'processes': world, 'learning_rate_for': rate_for})


def block(title: str, rows: dict[str, object]) -> str:
    """A title, and a line for each row."""
    return '\n'.join([title, *(f'  {name:<14} {value}' for name, value in rows.items())])


def _config(runner: Runner) -> str:
    """The file in the work dir into which MMEngine writes what the run is made of."""
    return str(Path(runner.work_dir, Path(runner.cfg.filename or f'{runner.timestamp}.py').name))


def _scale(runner: Runner, factor: float) -> None:
    """Multiply the learning rate, and what its schedules start from."""
    for group in runner.optim_wrapper.optimizer.param_groups:
        for name in ('lr', 'initial_lr'):
            if name in group:
                group[name] *= factor
    for scheduler in runner.param_schedulers or []:
        if scheduler.param_name == 'lr':
            scheduler.base_values = [value * factor for value in scheduler.base_values]
