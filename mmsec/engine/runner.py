"""MMEngine's Runner with a log that a person reads: what starts before the first iteration fits on a screen."""

import logging
import re
from typing import Any

import mmengine.runner
from mmengine.logging import MMLogger

_ELSEWHERE = (  # beginnings of what MMEngine logs by the hundred lines
    'Config:\n',  # it is a file in the work dir
    'Hooks will be executed in the following order:',
    'paramwise_options -- ',  # tools/analysis_tools/print_lr_groups.py
)
_COMPILED = re.compile(r'\n    PyTorch compiling details:.*?(?=\n    \w)', re.DOTALL)


class Runner(mmengine.runner.Runner):
    """MMEngine's, which logs neither config, order of hooks nor each parameter's options, unless by level DEBUG."""

    def build_logger(self, log_level: int | str = 'INFO', log_file: str | None = None, **options: Any) -> MMLogger:
        """The run's logger; arguments are MMEngine's."""
        logger = super().build_logger(log_level, log_file, **options)
        if log_level not in ('DEBUG', 'NOTSET', logging.DEBUG, logging.NOTSET):
            logger.addFilter(_shorten)
        return logger


def _shorten(record: logging.LogRecord) -> bool:
    """Whether a record is logged; how PyTorch was compiled is left out of one that is."""
    if isinstance(record.msg, str):
        record.msg = _COMPILED.sub('', record.msg)
    return not str(record.msg).startswith(_ELSEWHERE)
