"""python -m tests.engine.distributed.losses OUT [options of tools/train.py]: losses, norms frozen, to OUT."""

import json
import sys
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _BatchNorm

from mmsec.engine.processes import run
from tools import train


class Record(Hook):
    """Freezes the statistics of all norms and keeps the losses of this process."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        for module in runner.model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.losses.append(outputs['loss'].item())


def main() -> None:
    """Run."""
    out = Path(sys.argv.pop(1))
    cfg = train.configure(train.parse_args())
    runner = Runner.from_cfg(cfg)
    record = Record()
    runner.register_hook(record)
    runner.train()
    out.with_suffix(f'.{runner.rank}.json').write_text(json.dumps(record.losses))


if __name__ == '__main__':
    run(main)
