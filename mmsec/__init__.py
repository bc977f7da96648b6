"""Semantic-clustering backbones for dense prediction on OpenMMLab."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmsec.version import __version__

if TYPE_CHECKING:
    from mmsec.datasets.image_files import load_image
    from mmsec.models import ClusteredSwin, ClusTR, SecViT, ViT
    from mmsec.models.factory import create_model, list_models
    from mmsec.models.inspection import token_clusters
    from mmsec.visualization.clusters import visualize_clusters

__all__ = [
    'ClusTR', 'ClusteredSwin', 'SecViT', 'ViT', '__version__', 'create_model', 'list_models', 'load_image',
    'token_clusters', 'visualize_clusters',
]  # fmt: skip
_PLACES = {
    'create_model': 'models.factory',
    'list_models': 'models.factory',
    'load_image': 'datasets.image_files',
    'token_clusters': 'models.inspection',
    'visualize_clusters': 'visualization.clusters',
}


def __getattr__(name: str) -> Any:
    """Import what ``__all__`` names when it is first used, so that importing mmsec stays cheap."""
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{_PLACES.get(name, "models")}'), name)


def __dir__() -> list[str]:
    """The names for completion."""
    return sorted({*globals(), *__all__})
