"""A config file -> a config that can start."""

import importlib
import inspect
import logging
import re
from collections.abc import Sequence
from importlib.metadata import packages_distributions
from importlib.util import find_spec

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import RUNNERS, init_default_scope
from mmengine.runner import Runner as MMEngineRunner
from mmengine.utils import import_modules_from_strings

from mmsec import compat
from mmsec.cli.installation import check_installation, find_config
from mmsec.cli.names import check_names, check_option
from mmsec.cli.options import check_options, dicts_of
from mmsec.engine.hooks.plain_checkpoint import PlainCheckpointHook
from mmsec.engine.runner import Runner
from mmsec.errors import InputError

HOSTS = ('mmdet', 'mmseg', 'mmpretrain', 'mmrotate', 'mmpose')
_SETTINGS = {  # what MMEngine reads of them; it passes over every other key
    'auto_scale_lr': ('enable', 'base_batch_size'),
    'env_cfg': ('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'),
}

_PROMISES = {  # what a run does not do without a hook
    'AtomicCheckpointHook': 'a run that dies while it saves may leave half a checkpoint',
    'PreemptionHook': 'a run that is told to stop does not save and is not queued again',
    'NaNGuardHook': 'a loss that is not finite does not stop the run',
    'IterationSeedHook': 'processes draw the same random numbers, a resumed run those of its beginning',
    'BrokenDataHook': 'images left out are not counted',
}


def load_config(path: str, options: dict | None = None, hosts: Sequence[str] = HOSTS) -> Config:
    """Read a config of one of ``hosts``, by path or name, merge ``--cfg-options``, and put its default scope in force.

    Raises:
        InputError: If the file is missing or cannot be read, an option names nothing in it or nothing that is read, its
            host is another or is not installed, or a part of it has a type or an option that does not exist.
    """
    check_installation()
    path = find_config(path)
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # of any kind: the file is run
        reason = ' '.join(str(error).split())  # MMEngine's takes a line for each folder of sys.path
        raise InputError(f"config '{path}' cannot be read: {reason}") from error
    for key in options or {}:
        check_option(cfg, key)
    check_names(cfg)
    try:
        cfg.merge_from_dict(options or {})
        if any(key.split('.')[0] == 'custom_imports' for key in options or {}):
            import_modules_from_strings(**cfg.custom_imports)
    except (ImportError, KeyError, TypeError) as error:
        raise InputError(f'--cfg-options: {error}') from error
    for name, known in _SETTINGS.items():
        for key in cfg.get(name) or {}:
            if key not in known:
                raise InputError(f"config '{path}': {name} has no option '{key}'; it has {', '.join(known)}")
    host = cfg.get('default_scope')
    if host not in hosts:
        raise InputError(f"config '{path}': default_scope must be one of {tuple(hosts)}, got {host!r}")
    if find_spec(host) is None:
        raise InputError(
            f"config '{path}' is for {host}, which is not installed. Add it to the OpenMMLab you have, "
            'from the same set: stock or maintained (docs/installation.md)'
        )
    if not isinstance(cfg.get('model', {}), dict):
        raise InputError(f"config '{path}': model must be a dict, got {cfg.model!r}")
    _check_torchvision(host)
    init_default_scope(host)
    if cfg.get('compile') and (why := compat.why_not('torch.compile')):
        raise InputError(f"config '{path}': compile=True, but {why}")
    check_options(cfg)
    return cfg


def _check_torchvision(host: str) -> None:
    """Refuse a torchvision that cannot be imported: mmpretrain needs one, and MMEngine imports what is there."""
    if host != 'mmpretrain' and find_spec('torchvision') is None:
        return
    try:
        importlib.import_module('mmsec.cli.torchvision_apart')  # finds the one of tools/setup_env.sh
        importlib.import_module('torchvision')
    except (ImportError, OSError, RuntimeError) as error:
        version, _, build = torch.__version__.partition('+')
        minor = int(version.split('.')[1]) + 15  # 0.15 was for torch 2.0, and each has followed the other since
        index = f' --index-url https://download.pytorch.org/whl/{build}' if re.fullmatch(r'cpu|cu\d+', build) else ''
        raise InputError(
            f'{host} needs a torchvision that was built for torch {torch.__version__}, and here is none that can be '
            f"imported ({error}): pip install --force-reinstall --no-deps 'torchvision==0.{minor}.*'{index}"
        ) from error


def runner_class(cfg: Config) -> type[MMEngineRunner]:
    """The class of a config's run: MMEngine's Runner, or one made of it that ``runner_type`` names.

    Raises:
        InputError: If it is another, such as FlexibleRunner, whose strategies place and save a model in their own ways.
    """
    name = cfg.get('runner_type') or 'Runner'
    kind = RUNNERS.get(name) if isinstance(name, str) else name
    if cfg.get('strategy') or not (inspect.isclass(kind) and issubclass(kind, MMEngineRunner)):
        given = [f'{each}={cfg[each]}' for each in ('runner_type', 'strategy') if cfg.get(each)]
        raise InputError(
            f"{', '.join(given)}: the tools run MMEngine's Runner or a class made of it, without a strategy: FSDP and "
            'DeepSpeed are not supported. Leave out runner_type and strategy'
        )
    return Runner if kind is MMEngineRunner else kind


def complete_hooks(runner: Runner) -> None:
    """Add the hook that every tool's reading of checkpoints rests on, last of all; say what a run lacks without others.

    A list ``custom_hooks`` in a config replaces that of its base.
    """
    names = {type(hook).__name__ for hook in runner.hooks}
    if 'PlainCheckpointHook' not in names:
        runner.register_hook(PlainCheckpointHook())
    runner.hooks.sort(key=lambda hook: isinstance(hook, PlainCheckpointHook))  # it must see what others put in
    lacking = [f'{promise} (mmsec.{name})' for name, promise in _PROMISES.items() if name not in names]
    if lacking:
        print_log(
            f'the config has not the hooks of configs/_base_/default_runtime.py: {"; ".join(lacking)}. A custom_hooks '
            'list replaces that of the base; [*_base_.custom_hooks, ...] adds to it',
            'current',
            logging.WARNING,
        )


def revert_sync_bn(cfg: Config, launcher: str) -> None:
    """Turn SyncBN into BN where it cannot run: on the CPU and in a run of one process."""
    if launcher != 'none' and torch.cuda.is_available():
        return
    sync_norms = [node for _, node in dicts_of(cfg.model) if node.get('type') == 'SyncBN']
    for norm_cfg in sync_norms:
        norm_cfg['type'] = 'BN'
    if sync_norms:
        print_log('one process or no GPU: SyncBN in the config runs as BN', logger='current')


def check_operators(device: str) -> None:
    """Refuse an mmcv without the compiled operators that a device such as 'cuda:0' needs.

    mmcv compiled on a machine without a GPU, such as a login node, has none for GPUs unless told so.
    """
    try:
        from mmcv.ops import get_compiling_cuda_version
    except ImportError as error:
        raise InputError(
            f'mmcv has no compiled operators ({error}). Install it as docs/installation.md says'
        ) from error
    if device.startswith('cuda') and get_compiling_cuda_version() == 'not available':
        distribution = packages_distributions().get('mmcv', ['onedl-mmcv'])[0]  # stock or maintained
        raise InputError(
            f'mmcv was compiled without CUDA and cannot run on {device}. Compile it again, for A100 and H100 by: '
            'FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST="8.0;9.0" pip install --no-build-isolation --no-deps --no-cache-dir '
            f'--force-reinstall {distribution}'
        )
