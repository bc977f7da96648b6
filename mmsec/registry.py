"""Registries of mmsec, children of MMEngine's, so that every OpenMMLab host finds ``mmsec.<name>``."""

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmsec', locations=['mmsec.models'])
OPTIM_WRAPPERS = Registry(
    'optim_wrapper', parent=MMENGINE_OPTIM_WRAPPERS, scope='mmsec', locations=['mmsec.engine.optimizers']
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmsec',
    locations=['mmsec.engine.optimizers'],
)
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmsec', locations=['mmsec.engine.hooks'])
TRANSFORMS = Registry('transform', parent=MMENGINE_TRANSFORMS, scope='mmsec', locations=['mmsec.datasets'])
