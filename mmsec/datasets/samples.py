"""Images and label maps of a data set, read as a run will read them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import mmcv
import numpy as np
from mmengine import fileio

from mmsec.datasets.findings import Findings, some
from mmsec.datasets.skip_broken import SkipBroken

_BROKEN = 'are broken'


class LabelMaps(NamedTuple):
    """How label maps are read.

    Attributes:
        classes (Sequence[str]): Of the data set.
        reduce_zero_label (bool): Whether 0 is no class and 1 the first.
        mapping (Mapping[int, int]): Old to new labels, of a data set with other classes than its type's own.
        ignored (frozenset[int]): Labels of pixels that are not trained on.
        backend (str): What decodes them.
        backend_args (dict, optional): Of the storage that they are in.
    """

    classes: Sequence[str]
    reduce_zero_label: bool
    mapping: Mapping[int, int]
    ignored: frozenset[int]
    backend: str
    backend_args: dict | None

    def labels(self, path: str, shape: tuple[int, ...] | None) -> list[int]:
        """The classes of which a label map has pixels.

        Args:
            path (str): Of the label map.
            shape (tuple[int, ...], optional): Height and width of its image.

        Raises:
            _WrongLabels: If a run would read other labels or end there.
            ValueError: If it is not as large as its image.
        """
        content = fileio.get(path, backend_args=self.backend_args)
        label_map = mmcv.imfrombytes(content, flag='unchanged', backend=self.backend)
        if label_map is None:
            raise ValueError('it cannot be decoded')
        label_map = label_map.squeeze()
        if label_map.ndim > 2:
            raise _WrongLabels('are pictures, expected one channel with the number of a class', f'{label_map.shape}')
        if shape and label_map.shape != shape:
            sizes = [f'{size[0]}x{size[1]}' for size in (shape, np.atleast_2d(label_map).shape)]
            raise ValueError(f'the image is {sizes[0]}, the label map {sizes[1]}')
        values = np.unique(label_map)
        if values[0] < 0 or values[-1] > 255:
            reason = 'have values beyond 255, which are read as 8 bits: save the numbers of classes in 8 bits'
            raise _WrongLabels(reason, f'{values[0]} to {values[-1]}')
        labels = [int(value) for value in values]
        if self.reduce_zero_label:
            labels = [255 if value in (0, 255) else value - 1 for value in labels]
        labels = [self.mapping.get(value, value) for value in labels]
        beyond = sorted({value for value in labels if value >= len(self.classes)} - self.ignored)
        if beyond:
            reason = (
                f'have labels beyond the {len(self.classes)} classes, which are 0 to {len(self.classes) - 1}'
                f'{" after reduce_zero_label" if self.reduce_zero_label else ""}, and '
                f'{", ".join(map(str, sorted(self.ignored)))} for no class'
            )
            if not self.reduce_zero_label and beyond == [len(self.classes)]:
                reason += ' (where 0 is no class and 1 the first, set reduce_zero_label=True of each data set)'
            raise _WrongLabels(reason, some([str(value) for value in beyond]))
        return [value for value in labels if value < len(self.classes)]


class _WrongLabels(Exception):
    """What is wrong with a label map, and with this one."""


def look_at_samples(
    found: Findings,
    samples: Sequence[Mapping],
    loader: SkipBroken | None,
    label_maps: LabelMaps | None,
    limit: int | None,
    max_share: float,
) -> None:
    """Read images and label maps, and add what is wrong with them to ``found``.

    Args:
        found (Findings): Of the data set.
        samples (Sequence[Mapping]): Each with ``img_path``, and what there is of ``height``, ``width`` of its
            annotations, and ``seg_map_path``.
        loader (SkipBroken, optional): Reads the images; None where the pipeline reads none that it knows.
        label_maps (LabelMaps, optional): How label maps are read, if they are.
        limit (int, optional): Look at so many samples, evenly spaced. Default: None, at all.
        max_share (float): Share of the samples that may be broken.
    """
    step = max(len(samples) / limit, 1) if limit else 1
    chosen = [samples[int(i * step)] for i in range(int(len(samples) / step))]
    if label_maps:
        found.annotations = len(chosen)
        found.classes = dict.fromkeys(label_maps.classes, 0)
    broken, wrong = [], dict[str, list[str]]()
    for sample, outcome in zip(chosen, _read_all(chosen, loader, label_maps), strict=True):
        if isinstance(outcome, _WrongLabels):
            wrong.setdefault(outcome.args[0], []).append(f"'{sample['seg_map_path']}': {outcome.args[1]}")
        elif isinstance(outcome, Exception):
            label = f" or '{sample['seg_map_path']}'" if label_maps else ''
            broken.append(f"'{sample['img_path']}'{label}: {' '.join(str(outcome).split())}")
        elif label_maps:
            for value in outcome:
                found.classes[label_maps.classes[value]] += 1
    for reason, names in wrong.items():
        found.refuse(f'{len(names)} of {len(chosen)} label maps {reason}: {some(names, 3)}')
    if broken:
        found.left_out[_BROKEN] = broken
        if len(broken) > max_share * len(chosen):
            more = f', more than {max_share:.1%} (max_share of mmsec.BrokenDataHook allows more)' if max_share else ''
            found.refuse(
                f'{len(broken)} of {len(chosen)} samples that were looked at cannot be read{more}: {some(broken, 1)}. '
                'Are data_prefix and the suffix of its files right?'
            )
    elif label_maps and chosen and not any(found.classes.values()) and not wrong:
        found.refuse(f'none of the {len(chosen)} label maps that were looked at has a pixel of any class')


def _read_all(
    samples: Sequence[Mapping], loader: SkipBroken | None, label_maps: LabelMaps | None
) -> Iterator[list[int] | Exception]:
    """To each sample the classes in it, or why it cannot be used."""

    def read(sample: Mapping) -> list[int] | Exception:
        try:
            shape = None
            if loader:
                wanted = {name: sample[name] for name in ('img_path', 'height', 'width') if name in sample}
                shape = (loader.load(wanted) or {})['img'].shape[:2]
            return label_maps.labels(sample['seg_map_path'], shape) if label_maps else []
        except Exception as error:  # whatever a decoder throws
            return error

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:  # decoders let other threads run
        yield from pool.map(read, samples)
