"""Shared by all pictures: the image as the model sees it, panels, and pixels of a figure."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

OPACITY = 0.7  # of colours over an image
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def as_seen(preprocessor: BaseDataPreprocessor, sample: dict) -> tuple[np.ndarray, Tensor]:
    """A sample of a test pipeline as the model sees it.

    Args:
        preprocessor (BaseDataPreprocessor): The model's.
        sample (dict): ``inputs``, a (C, H, W) tensor, BGR if it has three channels, and ``data_samples``.

    Returns:
        tuple[np.ndarray, Tensor]: The image at the size the model sees, (H, W, 3) uint8 RGB, and the backbone's input,
        (1, C, H', W') normalised, on its device, where H' and W' may be padded. One or two channels are drawn in grey,
        of more than three the first three, and values of another type between their least and their greatest.
    """
    batch = preprocessor(pseudo_collate([sample]), False)['inputs']
    image = sample['inputs']
    image = image[:3] if len(image) > 2 else image[:1].expand(3, -1, -1)
    if image.dtype != torch.uint8:
        image = image.float() - image.min()
        image = (255 / image.max().clamp_min(1e-6) * image).byte()
    return image.flip(0).permute(1, 2, 0).cpu().numpy(), batch


def flatness(image: np.ndarray) -> float:
    """Height over width of the image's panel; very flat or tall images keep room for the text."""
    return min(max(image.shape[0] / image.shape[1], 0.3), 1.5)


def frame(axes: Axes, image: np.ndarray) -> None:
    """Show what lies on the image, at its aspect, without ticks."""
    height, width = image.shape[:2]
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], aspect='equal')


def grey(image: np.ndarray) -> np.ndarray:
    """The luma of an RGB image, (H, W) uint8."""
    return (image @ _LUMA).astype(np.uint8)


def extent(ids: Tensor, stride: int) -> tuple[int, int, int, int]:
    """Position of a (H', W') map on the image, as matplotlib takes it; the last tokens may reach beyond the image."""
    return 0, ids.shape[1] * stride, ids.shape[0] * stride, 0


def draw_grey(axes: Axes, image: np.ndarray, vmin: int = 0, vmax: int = 255) -> None:
    """Draw an image in grey from edge to edge, where ``vmin`` is black and ``vmax`` white."""
    edges = (0, image.shape[1], image.shape[0], 0)
    axes.imshow(grey(image), cmap='gray', vmin=vmin, vmax=vmax, extent=edges)


def pixels(figure: Figure) -> np.ndarray:
    """Draw a figure as (height, width, 3) uint8, RGB."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
