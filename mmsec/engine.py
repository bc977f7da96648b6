"""A config file -> a config that can start: what the tools share.

Everything a user can get wrong is looked at before a model is built, and reported as one
:class:`mmsec.errors.InputError`.
"""

import atexit
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed
from mmengine.config import Config, ConfigDict
from mmengine.dist import broadcast_object_list, get_world_size, init_dist, is_main_process
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader, Runner
from mmengine.utils.dl_utils import set_multi_processing
from torch import nn

from mmsec.errors import InputError
from mmsec.models import SecViT
from mmsec.models.checkpoint import is_pretrained, load_pretrained, read_checkpoint, read_pretrained
from mmsec.registry import MODELS

HOSTS = ('mmdet', 'mmseg')
T = TypeVar('T')


def run(main: Callable[[], None]) -> None:
    """Run a tool: an :class:`InputError` becomes one line and exit code 1, and no checkpoint runs code.

    Where ``main`` returns, all processes of a group are there, and they end the group together. A process that fails
    leaves alone and does not touch the group, where it could wait for the others without end.

    Args:
        main (Callable): The tool.
    """
    code = 0
    read_all_safely()
    try:
        main()
        end_group()
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        code = 1
    except SystemExit as leaving:
        code = leaving.code or 0
    except Exception:
        if not torch.distributed.is_initialized():
            raise
        traceback.print_exc()
        code = 1
    _leave_group(code)
    sys.exit(code)


def read_all_safely() -> None:
    """Make MMEngine and its hosts read every checkpoint of this process by :func:`read_checkpoint`.

    MMEngine's own loader falls back to a pickle that may run code, and ``Runner.resume`` executes the text that it
    finds as ``config`` in a checkpoint's ``meta``. All their ways to a checkpoint (``load_from``, ``resume``,
    ``init_cfg`` of any module, inferencers) go through the loaders that are replaced here. A ``torch.load`` of others
    is held to tensors and plain values too.
    """
    for prefix in list(CheckpointLoader._schemes):  # one for local files, and one for each kind of URL
        CheckpointLoader.register_scheme(prefix, load_from_local, force=True)
    os.environ.pop('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', None)  # torch loads nothing if both are set
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'


def load_from_local(filename: str, map_location: Any = 'cpu') -> dict:
    """Load a checkpoint for MMEngine, without the text that it would execute and no longer writes.

    Args:
        filename (str): A file on this machine.
        map_location (Any): Where its tensors go, as :func:`torch.load` takes it. Default: 'cpu'.

    Returns:
        dict: What the file holds.

    Raises:
        InputError: As :func:`mmsec.models.checkpoint.read_checkpoint`.
    """
    checkpoint = read_checkpoint(os.path.expanduser(filename), map_location)
    if isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)
    return checkpoint


def end_group() -> None:
    """End the group of processes, where all of them arrive together.

    A process that leaves with its NCCL group alive can be held up by NCCL's threads, or ended by them. A gloo group is
    only waited for; :func:`run` leaves it.
    """
    if not torch.distributed.is_initialized():
        return
    torch.distributed.barrier()
    if torch.distributed.get_backend() != 'gloo':
        torch.distributed.destroy_process_group()


def _leave_group(code: int) -> None:
    """End this process without Python's finalization if it is in a group.

    In it, a thread of gloo that still drops the tensors of the last collective waits for an interpreter that is gone,
    and aborts the process after all is done; a thread of NCCL waits for the other processes.
    """
    if torch.distributed.is_initialized():
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def check_operators(device: str) -> None:
    """Check that mmcv has the compiled operators that a device needs.

    mmcv compiled on a machine without a GPU, such as a login node, has none for GPUs unless told so.

    Args:
        device (str): Such as 'cpu' or 'cuda:0'.

    Raises:
        InputError: If they are missing; how to compile them.
    """
    try:
        from mmcv.ops import get_compiling_cuda_version
    except ImportError as error:
        raise InputError(
            f'mmcv has no compiled operators ({error}). Install it as the README says ("Install")'
        ) from error
    if device.startswith('cuda') and get_compiling_cuda_version() == 'not available':
        distribution = packages_distributions().get('mmcv', ['onedl-mmcv'])[0]  # stock or maintained
        raise InputError(
            f'mmcv was compiled without CUDA and cannot run on {device}. Compile it again, for A100 and H100 by: '
            'FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST="8.0;9.0" pip install --no-build-isolation --no-deps --no-cache-dir '
            f'--force-reinstall {distribution}'
        )


def from_first(decide: Callable[[], T]) -> T:
    """Let the first process decide for all, such as by a look at files, of which another machine may see older ones.

    Args:
        decide (Callable): Called in the first process; its result is sent to the others.

    Returns:
        Any: The first process's result, in all processes.

    Raises:
        InputError: If ``decide`` does and this process is alone.
        SystemExit: If ``decide`` raises an :class:`InputError` and there are several processes; see
            :func:`stop_together`.
    """
    outcome: list[Any] = [None]
    if is_main_process():
        try:
            outcome = [decide()]
        except InputError as error:
            outcome = [error]
    broadcast_object_list(outcome)
    if isinstance(outcome[0], InputError):
        stop_together(outcome[0])
    return outcome[0]


def stop_together(error: InputError) -> NoReturn:
    """Stop all processes for an error that all of them know; it is shown once.

    Args:
        error (InputError): What the first process shows.

    Raises:
        InputError: ``error``, if this process is alone.
        SystemExit: With code 1, if there are several.
    """
    if get_world_size() == 1:
        raise error
    if is_main_process():
        print(f'error: {error}', file=sys.stderr, flush=True)
    end_group()  # the launcher kills the first process when another has left
    raise SystemExit(1)


def load_config(path: str, options: dict | None = None) -> Config:
    """Read a config and merge command-line options into it.

    Args:
        path (str): Config file of mmdetection or mmsegmentation.
        options (dict, optional): Dotted keys to values, as ``--cfg-options`` gives them.

    Returns:
        Config: Merged, its host's default scope in force.

    Raises:
        InputError: If the file is missing or cannot be read, an option names nothing in it, or its ``default_scope``
            is neither mmdet nor mmseg.
    """
    if not Path(path).is_file():
        raise InputError(f"config '{path}' not found")
    try:
        cfg = Config.fromfile(path)
    except (SyntaxError, FileNotFoundError, KeyError, ImportError) as error:
        raise InputError(f"config '{path}' cannot be read: {error}") from error
    for key in options or {}:
        _check_option(cfg, key)
    cfg.merge_from_dict(options or {})
    if cfg.get('default_scope') not in HOSTS:
        raise InputError(f"config '{path}': default_scope must be one of {HOSTS}, got {cfg.get('default_scope')!r}")
    init_default_scope(cfg.default_scope)
    return cfg


def _check_option(cfg: Config, key: str) -> None:
    """Refuse an option that would be merged into a place nobody reads."""
    *parents, _ = key.split('.')
    first = key.split('.')[0]
    node: Any = cfg._cfg_dict
    if first not in node and first in {*inspect.signature(Runner.__init__).parameters, 'compile'}:
        return  # such as randomness.seed or compile: a part of the run that the config leaves at its default
    if not parents and key not in node:
        raise InputError(f"--cfg-options {key}: no '{key}' in the config")
    for i, name in enumerate(parents):
        try:
            node = node[int(name)] if isinstance(node, list | tuple) else node[name]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            where = '.'.join(parents[:i]) or 'the config'
            raise InputError(f"--cfg-options {key}: no '{name}' in {where}") from error


def check_data(cfg: Config, *splits: str) -> None:
    """Check that the data sets' folders and annotation files exist.

    Args:
        cfg (Config): The config.
        splits (str): Which of 'train', 'val' and 'test' will be read.

    Raises:
        InputError: Names the first path that is missing and the option that moves it.
    """
    for split in splits:
        for dataset in _datasets((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            root = Path(dataset.get('data_root') or '')
            prefixes = dataset.get('data_prefix') or {}
            for wanted in (root, *(root / name for name in (dataset.get('ann_file'), *prefixes.values()) if name)):
                if not wanted.exists():
                    raise InputError(
                        f"{split} data: '{wanted}' not found. Put the data set there, link it, or change "
                        'data_root in the config (README, "Training on COCO and ADE20K")'
                    )


def _datasets(dataset: ConfigDict | None) -> Iterator[ConfigDict]:
    """The data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    if dataset is None:
        return
    inner = [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets')
    if inner is None:
        yield dataset
    else:
        for one in inner:
            yield from _datasets(one)


def check_weights(cfg: Config) -> None:
    """Check that the files which ``load_from`` and any ``init_cfg`` of the model name can be read, before data is.

    Raises:
        InputError: If one is missing or damaged; see :func:`mmsec.models.checkpoint.read_checkpoint`.
    """
    of_backbone = _pretrained(cfg.model.get('backbone'))
    for path in sorted(of_backbone):
        read_pretrained(path)
    for path in sorted(_pretrained(cfg.model) - of_backbone):
        read_checkpoint(path)
    if cfg.get('load_from'):
        read_checkpoint(cfg.load_from)


def check_frozen(cfg: Config) -> None:
    """Check that what does not learn has weights from somewhere; call :func:`check_weights` first.

    Raises:
        InputError: If the backbone starts from random weights and ``norm_eval`` or ``frozen_stages`` keeps BatchNorm
            at mean 0 and variance 1, or stages as they are.
    """
    backbone = cfg.model.get('backbone') or {}
    last = Path(cfg.work_dir, 'last_checkpoint')  # what MMEngine looks at where resume=True stands alone
    if _pretrained([cfg.model.get('init_cfg'), backbone.get('init_cfg')]):
        return
    if cfg.get('load_from') or (cfg.get('resume') and last.is_file()):
        return
    fixed, learning = [], []
    if backbone.get('norm_eval'):
        fixed.append('norm_eval=True')
        learning.append('model.backbone.norm_eval=False')
    if backbone.get('frozen_stages', -1) >= 0:
        fixed.append(f'frozen_stages={backbone.frozen_stages}')
        learning.append('model.backbone.frozen_stages=-1')
    if fixed:
        raise InputError(
            f'the backbone starts from random weights, and {" and ".join(fixed)} keeps what was never trained as it is '
            f'(BatchNorm: mean 0, variance 1). Name a checkpoint, or let it learn: --cfg-options {" ".join(learning)}'
        )


def _pretrained(node: Any) -> set[str]:
    """The checkpoints that initialisers in a config name, at any depth."""
    return {str(each['checkpoint']) for each in _dicts(node) if is_pretrained(each) and 'checkpoint' in each}


@contextmanager
def naming_broken_annotations(cfg: Config) -> Iterator[None]:
    """Turn a JSON error inside into one that names the annotation file, which hosts do not.

    Raises:
        InputError: If an annotation file of ``cfg`` is not JSON.
    """
    try:
        yield
    except json.JSONDecodeError as error:
        raise _broken_annotations(cfg, error) from error


def _broken_annotations(cfg: Config, error: json.JSONDecodeError) -> InputError:
    """The error for the first annotation file of ``cfg`` that is not JSON."""
    for split in ('train', 'val', 'test'):
        for dataset in _datasets((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            path = Path(dataset.get('data_root') or '') / (dataset.get('ann_file') or '')
            if path.is_file():
                try:
                    json.loads(path.read_bytes())
                except ValueError as found:
                    return InputError(f"annotation file '{path}' is not JSON: {found}")
    return InputError(f'an annotation file is not JSON: {error}')


def revert_sync_bn(cfg: Config, launcher: str) -> None:
    """Turn SyncBN into BN where it cannot run: on the CPU and in a run of one process."""
    if launcher != 'none' and torch.cuda.is_available():
        return
    sync_norms = [node for node in _dicts(cfg.model) if node.get('type') == 'SyncBN']
    for norm_cfg in sync_norms:
        norm_cfg['type'] = 'BN'
    if sync_norms:
        print_log('one process or no GPU: SyncBN in the config runs as BN', logger='current')


def join_processes(cfg: Config) -> None:
    """Connect the processes of a launcher.

    On GPUs MMEngine connects them, with the backend of ``env_cfg.dist_cfg``. Its way asks for a CUDA device whatever
    the backend is. Without a GPU the backend is gloo, and the model is wrapped without device ids.

    Raises:
        InputError: If the launcher left a variable unset.
    """
    if cfg.launcher == 'none':
        return
    on_gpus = torch.cuda.is_available()
    if cfg.launcher == 'slurm':
        names = {'RANK': 'SLURM_PROCID', 'LOCAL_RANK': 'SLURM_LOCALID', 'WORLD_SIZE': 'SLURM_NTASKS'}
    elif cfg.launcher == 'mpi':
        prefix = 'OMPI_COMM_WORLD'
        names = {'RANK': f'{prefix}_RANK', 'LOCAL_RANK': f'{prefix}_LOCAL_RANK', 'WORLD_SIZE': f'{prefix}_SIZE'}
    else:
        names = {name: name for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE')}
    address = () if on_gpus and cfg.launcher == 'slurm' else ('MASTER_ADDR', 'MASTER_PORT')  # MMEngine asks Slurm
    missing = [name for name in (*names.values(), *address) if name not in os.environ]
    if missing:
        raise InputError(
            f'--launcher {cfg.launcher}: {", ".join(missing)} not set in the environment. Start with '
            'tools/dist_train.sh or tools/slurm_train.sh, or see docs/cluster.md'
        )
    os.environ.update({name: os.environ[source] for name, source in names.items()})
    if on_gpus:
        env_cfg = cfg.get('env_cfg') or {}
        set_multi_processing(**env_cfg.get('mp_cfg', {}), distributed=True)  # or init_dist chooses how workers start
        init_dist(cfg.launcher, **env_cfg.get('dist_cfg', {}))
        return
    torch.distributed.init_process_group('gloo')
    own = {'find_unused_parameters': cfg.get('find_unused_parameters', False), 'broadcast_buffers': False}
    wrapper = {'type': 'MMDistributedDataParallel'} | own | (cfg.get('model_wrapper_cfg') or {})
    cfg.model_wrapper_cfg = wrapper | {'device_ids': None}


def set_tf32(on: bool) -> None:
    """Let the float32 products and convolutions of a GPU run in TF32, or in full float32, and log which.

    PyTorch's default is TF32 in convolutions alone. ``torch.set_float32_matmul_precision`` is not called, because since
    torch 2.9 it also allows TF32 in the products of a CPU.

    Args:
        on (bool): Whether to run in TF32: inputs rounded to 10 bits of mantissa, sums in float32.
    """
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on
    if torch.cuda.is_available():
        how = 'TF32 (--no-tf32 for full float32)' if on else 'full float32'
        print_log(f'float32 products and convolutions run in {how}', 'current')


def _dicts(node: Any) -> Iterator[dict]:
    """Every dict in a config, at any depth."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _dicts(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _dicts(value)


def load_state(model: nn.Module, path: str) -> dict:
    """Load a trained checkpoint into a model, every weight of it.

    Args:
        model (nn.Module): Loaded in place.
        path (str): A checkpoint of the same config.

    Returns:
        dict: The checkpoint.

    Raises:
        InputError: If weights are missing, unknown or misshapen.
    """
    checkpoint = read_checkpoint(path)
    with _explaining_misfit(path):
        model.load_state_dict(checkpoint.get('state_dict', checkpoint), strict=True)
    return checkpoint


def load_trained(runner: Runner, path: str) -> None:
    """Load a trained checkpoint into a runner's model, every weight of it.

    Args:
        runner (Runner): Its model is loaded in place.
        path (str): A checkpoint of the same config.

    Raises:
        InputError: If weights are missing, unknown or misshapen.
    """
    read_checkpoint(path)
    with _explaining_misfit(path):
        runner.load_checkpoint(path, strict=True)


@contextmanager
def _explaining_misfit(path: str) -> Iterator[None]:
    """Turn torch's list of all keys that do not fit into an error that shows the first."""
    try:
        yield
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        shown = '\n'.join(lines[:8] + (['...'] if len(lines) > 8 else []))
        raise InputError(f"checkpoint '{path}' does not fit the config:\n{shown}") from error


def build_backbone(cfg: Config, checkpoint: str | None) -> SecViT:
    """Build the SecViT of a config, for a look at its clusters.

    Args:
        cfg (Config): A config of either host.
        checkpoint (str, optional): Published or trained weights; random ones without, whatever ``init_cfg`` says.

    Returns:
        SecViT: In evaluation mode.

    Raises:
        InputError: If the backbone is another, or the checkpoint does not fit it.
    """
    options = cfg.model.get('backbone', {})
    if options.get('type') not in ('mmsec.SecViT', 'SecViT'):
        raise InputError(f'the backbone of the config is {options.get("type")}, not mmsec.SecViT')
    backbone = MODELS.build(dict(options, init_cfg=None))
    if checkpoint:
        load_pretrained(backbone, checkpoint)
    return backbone.eval()
