"""Random numbers of iterations and samples that differ by process and do not depend on when a run was interrupted."""

from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from torch.utils.data import IterableDataset

from mmsec.engine.samples import PlacedBatches, place_samples, seed_all
from mmsec.registry import HOOKS


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Seed torch, NumPy and Python before each iteration and before each training sample.

    MMEngine seeds all processes alike, once: they draw the same drop path masks, the same samples of proposals and the
    same mixture of images (Mixup, CutMix), and a resumed run draws those of its beginning again, as do the workers that
    augment its images. With this hook an iteration draws by the run's seed, the process and the iteration, and a sample
    by the seed and its place in the run, counted over all processes: a resumed run draws what it would have drawn
    without the interruption, with any number of workers. Weights are initialised before, alike in all processes.

    What a transform keeps of earlier samples, such as the cache of CachedMosaic, is not in a checkpoint. Data sets that
    are iterated over have no places; their samples draw as MMEngine's do.
    """

    priority = 'VERY_HIGH'
    _batches: PlacedBatches | None = None

    def before_train(self, runner: Runner) -> None:
        """Tell samples their places."""
        loop, loader = runner.train_loop, runner.train_dataloader
        if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
            return
        self._batches = place_samples(loader, runner.seed)
        if isinstance(loop, IterBasedTrainLoop):
            if hasattr(loop.dataloader_iterator, 'skip_iter') and hasattr(loader.sampler, 'skip'):
                # MMEngine's would skip samples that are not counted here.
                loop.dataloader_iterator.skip_iter = self._batches.skip
            else:  # of stock MMEngine, which starts the workers before any hook
                loader._iterator = None
                if hasattr(loader.sampler, '_indices_of_rank'):  # of one endless list, from which they have taken
                    loader.sampler.indices = loader.sampler._indices_of_rank()
                loop.dataloader_iterator = type(loop.dataloader_iterator)(loader)

    def before_train_epoch(self, runner: Runner) -> None:
        """Count samples from the beginning of the epoch; the iterations of a run that counts those are one."""
        if self._batches and not isinstance(runner.train_loop, IterBasedTrainLoop):  # workers may have begun
            self._batches.start(runner.epoch)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the generators of the CPU and of all devices."""
        seed_all((runner.seed, get_rank(), runner.iter), devices=True)
