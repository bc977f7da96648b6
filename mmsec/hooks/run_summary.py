"""What a training run is about to do, in one block."""

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsec.registry import HOOKS


@HOOKS.register_module()
class RunSummaryHook(Hook):
    """Log effective batch size, learning rate, parameters, device and dtype when training starts."""

    def before_train(self, runner: Runner) -> None:
        """Log the block, once, on the first process."""
        wrapper = runner.optim_wrapper
        loader = runner.train_dataloader
        per_process = loader.batch_size or loader.batch_sampler.batch_size  # the first is None under a batch sampler
        world, accumulate = get_world_size(), wrapper._accumulative_counts
        parameters = list(runner.model.parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        frozen = sum(p.numel() for p in parameters) - trained
        group = wrapper.optimizer.param_groups[0]
        rows = {
            'batch size': f'{per_process * world * accumulate} = {per_process} an iteration and process'
            f' x {world} processes x {accumulate} accumulated',
            'learning rate': f'{group.get("initial_lr", group["lr"]):g} ({type(wrapper.optimizer).__name__})',
            'parameters': f'{trained:,} trained, {frozen:,} frozen',
            'device': str(parameters[0].device),
            'dtype': str(getattr(wrapper, 'cast_dtype', None) or parameters[0].dtype).removeprefix('torch.'),
            'work dir': runner.work_dir,
        }
        runner.logger.info('\n'.join(['training starts', *(f'  {name:<14} {value}' for name, value in rows.items())]))
