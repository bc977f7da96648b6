"""Metrics are there, and are numbers, whatever a model finds."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsec.registry import HOOKS

_AP = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')


@HOOKS.register_module()
class NoDetectionHook(Hook):
    """A detector that finds nothing in any image has an average precision of 0.

    mmdetection's ``CocoMetric`` then returns no metric at all, and what reads one, such as ``save_best``, fails.
    """

    priority = 'HIGHEST'  # before what reads them

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Complete the metrics of a validation."""
        self._complete(runner, runner.val_evaluator.metrics, metrics)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Complete the metrics of a test."""
        self._complete(runner, runner.test_evaluator.metrics, metrics)

    def _complete(self, runner: Runner, evaluators: list, metrics: dict[str, float] | None) -> None:
        """Add what is missing."""
        for each in evaluators:
            if metrics is None or type(each).__name__ != 'CocoMetric' or each.format_only:
                continue
            kinds = [kind for kind in each.metrics if not kind.startswith('proposal')]
            wanted = [f'{each.prefix}/{kind}_{name}' for kind in kinds for name in each.metric_items or _AP]
            missing = [name for name in wanted if name not in metrics]
            if missing:
                metrics.update(dict.fromkeys(missing, 0.0))
                runner.logger.warning('nothing was detected in any image: AP is 0')
