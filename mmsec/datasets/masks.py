"""Masks of annotation files, looked at before pycocotools rasterises them: some numbers hang it, others crash it."""

import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

NUMBERS = {int, float}
FAR = 1e6  # pixels; integers overflow in pycocotools beyond 4e8
_LONGEST = 2e6  # pixels along an outline, each of which takes 5 steps of 16 bytes
_AT_ONCE = 5000
# Each number is up to six bytes 'P' to 'o' and one of '0' to 'O'.
_CODE = re.compile('(?:[P-o]{0,6}[0-O])+')
_SHORT = 'have no polygon of three points or more and an even number of values'
_PARTS = 'have a polygon of fewer than three points or an odd number of values, which is left out'


def look_at_masks(
    masks: Sequence[Any], sizes: Sequence[tuple[int, int]], evaluated: bool = False, only_polygons: bool = False
) -> tuple[dict[int, str], dict[int, str]]:
    """Find the masks that mmdetection or pycocotools cannot use.

    Args:
        masks (Sequence): Each a list of polygons ``[x1, y1, x2, y2, ...]``, or a dict of run lengths with ``size`` and
            ``counts``, compressed or not; None where there is none.
        sizes (Sequence[tuple]): Height and width of the image of each.
        evaluated (bool): Whether pycocotools reads them as they are; mmdetection drops broken polygons before.
        only_polygons (bool): Whether run lengths are left out, as by ``poly2mask=False``.

    Returns:
        tuple[dict, dict]: To the index of a mask, why nothing can read it, and why it is left out.
    """
    wrong: dict[int, str] = {}
    dropped: dict[int, str] = {}
    for start in range(0, len(masks), _AT_ONCE):
        part = range(start, min(start + _AT_ONCE, len(masks)))
        polygons, codes = [], []
        for i in part:
            mask = masks[i]
            if mask is None:
                wrong[i] = "have no 'segmentation'"
            elif type(mask) is list and all(type(each) is list and {*map(type, each)} <= NUMBERS for each in mask):
                polygons.append(i)
            elif type(mask) is not dict:
                wrong[i] = 'have a segmentation that is neither a list of polygons nor run lengths'
            elif only_polygons:
                dropped[i] = 'have run lengths, of which poly2mask=False makes no mask'
            else:
                codes.append(i)
        _look_at_polygons({i: masks[i] for i in polygons}, evaluated, wrong, dropped)
        _look_at_codes({i: masks[i] for i in codes}, sizes, wrong)
    return wrong, dropped


def _look_at_polygons(masks: dict[int, list], evaluated: bool, wrong: dict[int, str], dropped: dict[int, str]) -> None:
    """Look at masks that are lists of lists of numbers."""
    if not masks:
        return
    index = np.array(list(masks))
    lengths = np.array([len(each) for mask in masks.values() for each in mask], np.int64)
    owners = np.repeat(np.arange(len(masks)), [len(mask) for mask in masks.values()])
    values = np.fromiter(chain.from_iterable(chain.from_iterable(masks.values())), float, lengths.sum())
    polygon = np.repeat(np.arange(len(lengths)), lengths)

    def any_of(which: np.ndarray) -> np.ndarray:
        return np.bincount(owners[which], minlength=len(masks)) > 0

    with np.errstate(invalid='ignore', over='ignore'):
        step = np.abs(values[2:] - values[:-2])
    inside = polygon[2:] == polygon[:-2]
    outline = np.bincount(owners[polygon[2:][inside]], weights=step[inside], minlength=len(masks))
    far = ~(np.abs(values) <= FAR)
    for i in index[any_of(polygon[far]) | ~(outline <= _LONGEST)].tolist():
        wrong[i] = f'have a polygon with numbers that are not finite or beyond {FAR:.0e} pixels'
    usable = (lengths >= 6) & (lengths % 2 == 0)
    for i in index[any_of(np.flatnonzero(~usable))].tolist():
        sizes = [len(each) for each in masks[i]]
        if evaluated and (sizes[0] < 5 or min(sizes) < 2):  # by the first it tells polygons from boxes
            wrong.setdefault(i, 'have a polygon of fewer than three points, which pycocotools cannot read')
        else:
            dropped[i] = _PARTS if any(size >= 6 and size % 2 == 0 for size in sizes) else _SHORT


def _look_at_codes(masks: dict[int, dict], sizes: Sequence[tuple[int, int]], wrong: dict[int, str]) -> None:
    """Look at masks that are dicts of run lengths."""
    compressed = {}
    for i, mask in masks.items():
        size, counts = mask.get('size'), mask.get('counts')
        area = sizes[i][0] * sizes[i][1]
        if size != list(sizes[i]):
            wrong[i] = 'have run lengths of another size than the image'
        elif type(counts) is list:
            if {*map(type, counts)} != {int} or min(counts) < 0 or sum(counts) != area:
                wrong[i] = 'have run lengths that do not add up to the image'
        elif type(counts) is not str or not _CODE.fullmatch(counts):
            wrong[i] = 'have run lengths that are malformed'
        else:
            compressed[i] = counts
    if compressed:
        totals, negative = add_up(list(compressed.values()))
        areas = np.array([sizes[i][0] * sizes[i][1] for i in compressed])
        for i in np.array(list(compressed))[negative | (totals != areas)].tolist():
            wrong[i] = 'have run lengths that do not add up to the image'


def add_up(codes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Add up COCO's compressed run lengths, all at once.

    Args:
        codes (Sequence[str]): Each of 'P' to 'o' for a byte that others follow and '0' to 'O' for the last of a number,
            five bits each, the lowest first. From the fourth on, a number is the difference to the last but one.

    Returns:
        tuple[np.ndarray, np.ndarray]: (n,) sums, and (n,) whether a run has a negative length.
    """
    data = np.frombuffer(''.join(codes).encode('ascii'), np.uint8).astype(np.int64) - ord('0')
    ends = np.flatnonzero(data < 32)
    starts = np.r_[0, ends[:-1] + 1]
    sizes = ends - starts + 1
    place = np.arange(len(data)) - np.repeat(starts, sizes)
    numbers = np.add.reduceat((data & 31) << (5 * place), starts) - ((data[ends] & 16) > 0) * (1 << (5 * sizes))
    owner = np.repeat(np.arange(len(codes)), [len(code) for code in codes])[ends]
    amount = np.bincount(owner, minlength=len(codes))
    begin = np.cumsum(amount) - amount
    index = np.arange(len(ends)) - begin[owner]
    order = np.empty_like(index)  # of each code even runs, then odd ones
    order[begin[owner] + index // 2 + (index % 2) * ((amount[owner] + 1) // 2)] = np.arange(len(ends))
    numbers, owner, index = numbers[order], owner[order], index[order]
    sums = np.cumsum(numbers)
    chain_of = np.maximum.accumulate(np.where(index <= 2, np.arange(len(index)), 0))
    lengths = sums - (sums - numbers)[chain_of]
    totals = np.bincount(owner, weights=lengths, minlength=len(codes))
    return totals, np.bincount(owner[lengths < 0], minlength=len(codes)) > 0
