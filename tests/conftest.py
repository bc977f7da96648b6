"""What several tests share: a small backbone, a small generated data set, shrunk configs, and running a tool."""

import importlib
import io
import logging
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ['TRITON_INTERPRET'] = '1'  # before anything imports Triton: kernels run on a CPU
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.runner import CheckpointLoader
from mmengine.utils import ManagerMixin

from mmsec import compat, registry
from mmsec.cli.config import dicts_of
from mmsec.engine.hooks.preemption import TOLD_BY
from mmsec.engine.processes import run
from mmsec.models import ViT
from mmsec.models.checkpoints.reading import forget_checkpoints
from mmsec.ops import Grouping, Tokens
from mmsec.ops.grouping import GROUPINGS, GroupingMethod

if why := compat.why_not('torch.compile'):
    torch.compile = torch.compiler.set_stance = lambda *_, **__: pytest.skip(why)
if 'PYTEST_XDIST_WORKER' in os.environ:  # one of several processes that share the cores
    torch.set_num_threads(1)
    os.environ['OMP_NUM_THREADS'] = '1'  # of what the tests start
ROOT = Path(__file__).parents[1]
DATA = Path(__file__).parent / 'data'
SMALL_ARCH = dict(
    embed_dims=(16, 32, 64, 96),
    depths=(1, 2, 2, 1),
    num_heads=(1, 2, 4, 6),
    mlp_ratio=3,
    layer_scale=(False, False, True, True),
)
SMALL_CLUSTR = dict(
    embed_dims=(16, 32, 48, 64),
    depths=(1, 2, 2, 1),
    num_heads=(1, 2, 3, 4),
    mlp_ratios=(8, 8, 4, 4),
    sr_ratios=(8, 4, 2, 1),
)
SMALL_VIT = dict(embed_dims=16, depth=12, num_heads=2, mlp_ratio=2)
SMALL_SWIN = dict(embed_dims=16, depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 4), mlp_ratio=1)
# Sizes of heads and necks, wherever in them a config has them.
SMALL_HEAD = dict(
    channels=16,
    conv_out_channels=16,
    embed_dims=16,
    fc_out_channels=32,
    feat_channels=16,
    feedforward_channels=32,
    in_channels=16,
    num_csp_blocks=1,
    num_feats=8,
    num_groups=4,
    num_layers=2,
    num_queries=10,
    out_channels=16,
)
OFFICIAL = DATA / 'secvit_official_tiny.pth'
DETECTOR = 'mmdet/secvit_t_maskrcnn_shapes.py'
SEGMENTER = 'mmseg/secvit_t_upernet_shapes.py'

needs_operators = pytest.mark.skipif(not compat.OPERATORS, reason=f'torch {torch.__version__} has no custom operators')

# Every way of grouping by being registered, and options that take another way through the code.
each_grouping = pytest.mark.parametrize(
    'grouping',
    [
        *(dict(type=name) for name in sorted(GROUPINGS)),
        *(dict(type='SemanticGrouping', feature=feature) for feature in ('query', 'value', 'token')),
        *(dict(type='SemanticGrouping', metric=metric, magnitude=True) for metric in ('cosine', 'dot', 'euclidean')),
        dict(type='SemanticGrouping', cut='interleaved'),
        dict(type='WindowGrouping', shift=True),
    ],
    ids=lambda each: '-'.join(map(str, each.values())),
)


def build_grouping(config: dict, block: int = 0) -> GroupingMethod:
    """A grouping as block number ``block`` of a stage has it."""
    method = GROUPINGS.build(config)
    method.block = block
    return method


def tokens_of(key: torch.Tensor, size: tuple[int, int] | None = None) -> Tokens:
    """What a grouping is given, all parts of it the keys (B, N, h, d)."""
    return Tokens(key[:, :, None].expand(-1, -1, 3, -1, -1), key, size or (key.shape[1], 1))


def semantic(key: torch.Tensor, num_clusters: int) -> Grouping:
    """The published grouping of keys (B, N, h, d)."""
    return GROUPINGS.build(dict(type='SemanticGrouping'))(tokens_of(key), num_clusters)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """Skip what computes in float16 on a CPU, where an old torch cannot."""
    try:
        return (yield)
    except RuntimeError as error:
        if compat.TORCH < (2, 4) and "not implemented for 'Half'" in str(error):
            pytest.skip(f'torch {torch.__version__}: {error}')
        raise


@pytest.fixture
def registered():
    """Forget the groupings and backbones that a test registers."""
    tables = GROUPINGS, registry.MODELS.module_dict
    before = [dict(table) for table in tables]
    yield
    for table, names in zip(tables, before, strict=True):
        for name in set(table) - set(names):
            del table[name]


@pytest.fixture(autouse=True)
def _fresh():
    """Random numbers, signals, the host that a test chooses, its log and checkpoints that it has read are its own."""
    torch.manual_seed(0)
    signals = {each: signal.getsignal(each) for each in TOLD_BY}  # MMEngine tells no hook that a run has failed
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    kept = [(kind._instance_dict, dict(kind._instance_dict)) for kind in (DefaultScope, MMLogger)]
    yield
    for each, handler in signals.items():
        signal.signal(each, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    forget_checkpoints()
    for instances, before in kept:
        instances.clear()
        instances.update(before)


@pytest.fixture
def log():
    """What MMEngine's logger is given, as a list of messages."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


@pytest.fixture(scope='session')
def shapes(tmp_path_factory):
    """A generated data set of 8 training and 4 validation images of 64 pixels."""
    from mmsec.datasets.shapes import write_shapes

    root = tmp_path_factory.mktemp('shapes')
    write_shapes(root, train=8, val=4, seed=3, size=64)
    return root


def shrink_model(cfg: Config) -> None:
    """Make a config's model small enough to run many of them, and leave its structure as it is."""
    backbone = cfg.model.backbone
    if backbone.type == 'mmsec.ClusteredSwin':
        arch = SMALL_SWIN
        backbone.backbone.update(arch)
    else:
        arch = {'mmsec.SecViT': SMALL_ARCH, 'mmsec.ClusTR': SMALL_CLUSTR, 'mmsec.ViT': SMALL_VIT}[backbone.type]
        if backbone.type == 'mmsec.ViT' and isinstance(backbone.arch, str):  # what an arch says beside its sizes
            arch = ViT.arch_zoo[backbone.arch] | SMALL_VIT
        backbone.arch = arch
    if isinstance(backbone.get('num_clusters'), list | tuple):  # one that is a list has one for each block
        counts = zip(backbone.num_clusters, arch['depths'], strict=True)
        backbone.num_clusters = [each[:depth] if isinstance(each, list) else each for each, depth in counts]
    backbone.init_cfg = None
    dims = arch['embed_dims']
    if backbone.type == 'mmsec.ClusteredSwin':
        dims = [dims << i for i in range(4)]
    if not isinstance(dims, int):  # one number where all maps have it
        dims = [dims[i] for i in backbone.get('out_indices', range(4))]
    for place, part in dicts_of(cfg.model):
        if place.startswith(('backbone', 'data_preprocessor')):
            continue
        part.update({name: size for name, size in SMALL_HEAD.items() if isinstance(part.get(name), int)})
        if part.get('num_points', 0) > 100:  # at which masks are compared; deformable attention has four
            part.num_points = 100
    if cfg.default_scope == 'mmpretrain':
        own = cfg.model.neck.type == 'mmsec.PooledProjection'
        if own:
            cfg.model.neck.update(in_channels=dims[-1], out_channels=16)
        cfg.model.head.in_channels = 16 if own else dims if isinstance(dims, int) else dims[-1]
        return
    if cfg.default_scope == 'mmseg':
        cfg.model.data_preprocessor.size = (64, 64)
        neck = cfg.model.get('neck')
        if neck:
            neck.update({'embed_dim': dims} if 'embed_dim' in neck else {'in_channels': dims, 'out_channels': 16})
            dims = [16] * 4
        cfg.model.decode_head.in_channels = dims
        if cfg.model.get('auxiliary_head'):
            cfg.model.auxiliary_head.in_channels = dims[2]
        return
    for augment in cfg.model.data_preprocessor.get('batch_augments') or []:
        augment.size = (64, 64)
    (cfg.model.get('neck') or cfg.model.panoptic_head).in_channels = dims
    if 'rcnn' in cfg.model.test_cfg:
        cfg.model.test_cfg.rcnn.max_per_img = 5


def small_run(name: str, data: Path, folder: Path, **changes) -> Path:
    """Write a config that trains ``configs/<name>``, shrunk, on ``data`` for two short epochs.

    ``data`` is what :func:`shapes` gives; for mmpretrain a folder with ``train`` and ``val``, each with classes.
    """
    cfg = Config.fromfile(ROOT / 'configs' / name)
    shrink_model(cfg)
    cfg.log_level = 'WARNING' if changes.pop('quiet', False) else 'INFO'
    cfg.default_hooks.logger.interval = 1
    for scheduler in cfg.param_scheduler:
        if 'start_factor' in scheduler:  # the run has no time for a warm-up
            scheduler.update(start_factor=1.0, end=1)
    for split in ('train', 'val', 'test'):
        folder_of = {'mmdet': data / 'coco', 'mmseg': data / 'ade', 'mmpretrain': data}
        cfg[f'{split}_dataloader'].dataset.data_root = str(folder_of[cfg.default_scope])
        cfg[f'{split}_dataloader'].update(num_workers=0, persistent_workers=False)
    if cfg.default_scope == 'mmdet':
        annotations = data / 'coco/annotations/instances_val2017.json'
        cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = str(annotations)
        cfg.train_cfg.update(max_epochs=2, val_interval=1)
    elif cfg.default_scope == 'mmpretrain':
        cfg.train_cfg.max_epochs = 2
        for dataloader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            dataloader.batch_size = 8
            dataloader.dataset.type = 'CustomDataset'  # ImageNet has a thousand classes
            for step in dataloader.dataset.pipeline:
                step.update({key: size for key, size in (('scale', 64), ('crop_size', 64)) if key in step})
    else:
        cfg.train_cfg.update(max_iters=4, val_interval=2)
        cfg.default_hooks.checkpoint.interval = 2
    cfg.merge_from_dict(changes)
    path = folder / 'config.py'
    path.parent.mkdir(parents=True, exist_ok=True)
    cfg.dump(path)
    return path


def small_checkpoint(config: Path) -> Path:
    """Write a checkpoint with random weights of a config's model and the class names of its data beside it."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    meta = {'dataset_meta': dict(cfg.test_dataloader.dataset.metainfo)}
    path = config.with_suffix('.pth')
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict(), 'meta': meta}, path)
    return path


def _environment() -> dict[str, str]:
    """Where tools run as a user runs them find mmsec, after what the test puts first."""
    path = os.pathsep.join(filter(None, (os.environ.get('PYTHONPATH'), str(ROOT))))
    return os.environ | {'PYTHONPATH': path}


def run_tool(tool: str, *args: object, check: bool = True) -> subprocess.CompletedProcess:
    """Run ``tools/<tool>`` as a user would; stdout and stderr come back as one text."""
    result = subprocess.run(
        [sys.executable, ROOT / 'tools' / tool, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=_environment(),
        timeout=600,
    )
    if check:
        assert result.returncode == 0, result.stdout[-4000:]
    return result


def run_here(tool: str, *args: object, check: bool = True) -> subprocess.CompletedProcess:
    """Run ``tools/<tool>`` as :func:`run_tool`, in this process, which saves the seconds that imports take."""
    module = importlib.import_module('.'.join(['tools', *Path(tool).with_suffix('').parts]))
    for kind in _kinds(ManagerMixin):  # loggers and the like, as in a new process
        kind._instance_dict.clear()
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(printed):
        patch.setattr(sys, 'argv', [Path(tool).name, *map(str, args)])
        patch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
        for name in ('LOCAL_RANK', 'TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'):
            patch.setenv(name, '0')
        try:
            run(module.main)
        except SystemExit as leaving:
            code = leaving.code
        except Exception:
            traceback.print_exc()
            code = 1
    assert not (check and code), printed.getvalue()[-4000:]
    return subprocess.CompletedProcess([tool, *args], code, printed.getvalue())


def error_here(tool: str, *args: object) -> str:
    """Run a tool in this process that must fail with one line."""
    result = run_here(tool, *args, check=False)
    assert result.returncode
    assert 'Traceback' not in result.stdout
    (line,) = [line for line in result.stdout.splitlines() if 'error: ' in line]
    return line


def _kinds(kind: type) -> Iterator[type]:
    """A class and those that are made of it."""
    yield kind
    for each in kind.__subclasses__():
        yield from _kinds(each)


def one_line_error(*command) -> str:
    """Run a tool that must fail with one line on stderr."""
    result = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, env=_environment()
    )
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line and 'Warning' not in line and 'warn' not in line]
    assert len(lines) == 1, result.stderr
    return lines[0]
