"""Registries of mmsec, children of MMEngine's, so that every OpenMMLab host finds ``mmsec.<name>``."""

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import WEIGHT_INITIALIZERS as MMENGINE_WEIGHT_INITIALIZERS
from mmengine.registry import Registry

from mmsec.errors import InputError

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
WEIGHT_INITIALIZERS = Registry(
    'weight initializer', parent=MMENGINE_WEIGHT_INITIALIZERS, scope='mmsec', locations=['mmsec.models']
)


def renamed(registry: Registry, **names: str) -> None:
    """Let each old name in a config end in one line that says the new one.

    Args:
        registry (Registry): Where the new names are registered.
        names (str): Old name -> new name.
    """
    for old, new in names.items():

        def refuse(_old: str = old, _new: str = new, **_: object) -> None:
            raise InputError(f"mmsec.{_old} is now called mmsec.{_new}: write type='mmsec.{_new}' in the config")

        registry.register_module(name=old, module=refuse)
