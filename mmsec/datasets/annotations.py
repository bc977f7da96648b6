"""COCO annotation files, looked at before mmdetection and pycocotools read them."""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine import fileio

from mmsec.datasets.findings import UNUSABLE_SHARE, Findings, some
from mmsec.datasets.masks import FAR, NUMBERS, look_at_masks
from mmsec.errors import InputError

_ABSENT = object()
_ADVICE = 'Correct the file, or remove them from it'


def read_annotations(path: str, backend_args: dict | None = None) -> Any:
    """Read a JSON file as the hosts do.

    Args:
        path (str): File, or its address in a storage that MMEngine knows.
        backend_args (dict, optional): Of that storage. Default: None.

    Raises:
        InputError: If it is no file, cut off, not JSON or not UTF-8.
    """
    try:
        if '://' not in path and not Path(path).is_file():
            raise InputError(f"'{path}' is not a file")
        return json.loads(fileio.get(path, backend_args=backend_args).decode(), parse_int=_integer)
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise InputError(f"annotation file '{path}' is not UTF-8: {error}. Save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"annotation file '{path}' is cut off or not JSON: {error}") from error
    except OSError as error:
        raise InputError(f"annotation file '{path}' cannot be read: {error}") from error


def _integer(digits: str) -> float:
    """A number that NumPy has room for; Python would make one of a million digits."""
    return int(digits) if len(digits) < 19 else float(digits)


def look_at_annotations(
    content: Any,
    classes: Sequence[str],
    data: str,
    masks: bool = False,
    only_polygons: bool = False,
    evaluated: bool = False,
    without: bool = False,
    filter_cfg: dict | None = None,
    max_share: float = UNUSABLE_SHARE,
) -> Findings:
    """Look at the content of an annotation file as ``mmdet.CocoDataset`` or ``CocoMetric`` will use it.

    mmdetection drops without a word what :attr:`Findings.left_out` counts. What ends or hangs a run is refused.

    Args:
        content: As :func:`read_annotations` gives it.
        classes (Sequence[str]): Of the data set.
        data (str): What messages call it.
        masks (bool): Whether masks are read.
        only_polygons (bool): Whether masks are read with ``poly2mask=False``.
        evaluated (bool): Whether pycocotools compares predictions with it.
        without (bool): Whether a file without annotations will do, such as that of COCO's test images.
        filter_cfg (dict, optional): Of a data set for training.
        max_share (float): Share of the annotations that may be unusable.

    Returns:
        Findings: Without counts if the structure is refused.
    """
    found = Findings(data)
    reason = _broken(content, masks, without) or _unlike(content['categories'], classes)
    if reason:
        found.refuse(reason)
        return found
    look = _Look(found, content, classes)
    look.at_boxes()
    if masks:
        look.at_masks(evaluated, only_polygons)
    look.count(classes, filter_cfg or {})
    total = len(look.annotations)
    found.refuse_many(total, 'annotations', max_share, f'{_ADVICE}; max_share of mmsec.BrokenDataHook allows more')
    if not (any(found.classes.values()) or found.refused or (without and 'annotations' not in content)):
        found.refuse(f'no annotation is left of {total}{found.because("annotations", "crowds")}')
    if evaluated:
        ids = [each['id'] for each in look.annotations]
        if any(type(each) is str for each in ids):
            found.refuse(
                'ids of annotations are texts, and pycocotools needs numbers. Number the annotations from 1 on'
            )
        elif ids and min(ids) <= 0:
            low = sum(each <= 0 for each in ids)
            found.passed_over['annotations whose id is 0 or less, which pycocotools never counts as found'] = low
    return found


class _Look:
    """The annotations of a file of COCO's structure, of which each is left out for one reason at most."""

    def __init__(self, found: Findings, content: dict, classes: Sequence[str]) -> None:
        self.found = found
        self.images, self.annotations = content['images'], content.get('annotations', [])
        found.images, found.annotations = len(self.images), len(self.annotations)
        places = {image['id']: i for i, image in enumerate(self.images)}
        labels = {name: i for i, name in enumerate(classes)}
        numbers = {each['id']: labels.get(each['name'], -1) for each in content['categories']}
        self.place = np.array([places.get(each['image_id'], -1) for each in self.annotations], np.int64)
        self.label = np.array([numbers.get(each['category_id'], -2) for each in self.annotations], np.int64)
        self.crowd = np.array([bool(each['iscrowd']) for each in self.annotations], bool)
        self.open = np.ones(len(self.annotations), bool)  # of which nothing has been said yet

    def at_boxes(self) -> None:
        """Find what has no image or class, and boxes that mmdetection drops."""
        self._leave_out(self.place < 0, 'are of an image that the file does not have')
        self._leave_out(self.label == -2, 'have a category_id that the file does not have')
        self._pass_over(self.label == -1, 'annotations of other classes')
        ignored = np.array([bool(each.get('ignore')) for each in self.annotations], bool)
        self._pass_over(ignored, "annotations marked 'ignore'")
        x, y, width, height = np.array([each['bbox'] for each in self.annotations], float).reshape(-1, 4).T
        sizes = np.array([(image['height'], image['width']) for image in self.images] + [(0, 0)], float)[self.place]
        self._leave_out(np.isnan(x + y + width + height), 'have a box that is not a number')
        self._leave_out((width < 1) | (height < 1), 'have a box narrower or lower than one pixel')
        right, bottom = np.minimum(x + width, sizes[:, 1]), np.minimum(y + height, sizes[:, 0])
        outside = (right <= np.maximum(x, 0)) | (bottom <= np.maximum(y, 0))
        self._leave_out(outside, 'have a box outside their image')
        self._leave_out(np.array([each['area'] for each in self.annotations], float) <= 0, 'have an area of 0 or less')

    def at_masks(self, evaluated: bool, only_polygons: bool) -> None:
        """Find masks that cannot be read; an evaluation reads also those that training drops."""
        index = np.flatnonzero((self.label >= 0) & (self.place >= 0) if evaluated else self.open)
        sizes = [(self.images[i]['height'], self.images[i]['width']) for i in self.place[index].tolist()]
        masks = [self.annotations[i].get('segmentation') or None for i in index.tolist()]
        wrong, dropped = look_at_masks(masks, sizes, evaluated, only_polygons)
        for reason, count in Counter(wrong.values()).items():
            names = [self._name(index[i]) for i in sorted(wrong) if wrong[i] == reason]
            self.found.refuse(f'{count} of {len(self.annotations)} annotations {reason}: {some(names)}. {_ADVICE}')
        for reason in dict.fromkeys(dropped.values()):
            which = np.zeros(len(self.annotations), bool)
            which[index[[i for i in dropped if dropped[i] == reason]]] = True
            self._leave_out(which & ~self.crowd, reason)

    def count(self, classes: Sequence[str], filter_cfg: dict) -> None:
        """Count what is left: instances of each class, and images that a data set's filter lets pass."""
        known = (self.label >= 0) & (self.place >= 0)
        with_class = np.bincount(self.place[known], minlength=len(self.images)) > 0
        counts = np.bincount(self.label[self.open & ~self.crowd], minlength=len(classes)).tolist()
        self.found.classes = dict(zip(classes, counts, strict=True))
        self._pass_over(self.crowd, 'crowds, in which nothing counts as wrong')
        least = filter_cfg.get('min_size', 0)
        small = np.array([min(image['width'], image['height']) < least for image in self.images], bool)
        empty = ~with_class & ~small & bool(filter_cfg.get('filter_empty_gt', False))
        self.found.left = int((~small & ~empty).sum())
        for which, reason in (
            (small, f'images smaller than filter_cfg.min_size={least}'),
            (empty, 'images without an annotation of these classes (filter_cfg.filter_empty_gt)'),
        ):
            if which.any():
                self.found.passed_over[reason] = int(which.sum())
        if not self.found.left:
            self.found.refuse(f'no image is left of {len(self.images)}{self.found.because("images")}')

    def _name(self, i: int) -> str:
        image = self.images[self.place[i]]['file_name'] if self.place[i] >= 0 else 'no image'
        return f'annotation {self.annotations[i]["id"]} of {image}'

    def _take(self, which: np.ndarray) -> list[int]:
        """Take annotations of which nothing has been said yet."""
        chosen = np.flatnonzero(which & self.open)
        self.open[chosen] = False
        return chosen.tolist()

    def _leave_out(self, which: np.ndarray, reason: str) -> None:
        names = [self._name(i) for i in self._take(which)]
        if names:
            self.found.left_out[reason] = names

    def _pass_over(self, which: np.ndarray, reason: str) -> None:
        count = len(self._take(which))
        if count:
            self.found.passed_over[reason] = count


def _is_id(value: Any) -> bool:
    return type(value) in (int, str) or (type(value) is float and value.is_integer())


def _is_size(value: Any) -> bool:
    return type(value) in NUMBERS and 0 < value <= FAR and value == int(value)


def _is_box(value: Any) -> bool:
    return (
        type(value) is list
        and len(value) == 4
        and {*map(type, value)} <= NUMBERS
        and not any(abs(each) > FAR for each in value)  # NaN is not, and mmdetection drops it
    )


_TEXT = (lambda value: type(value) is str and value != '', 'a text')
_ID = (_is_id, 'a whole number or a text')
_SIZE = (_is_size, f'a whole number of pixels from 1 to {FAR:.0e}')
_KEYS: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
    'categories': {'id': _ID, 'name': _TEXT},
    'images': {'id': _ID, 'file_name': _TEXT, 'height': _SIZE, 'width': _SIZE},
    'annotations': {
        'id': _ID,
        'image_id': _ID,
        'category_id': _ID,
        'bbox': (_is_box, f'four numbers of at most {FAR:.0e}'),
        'area': (lambda value: type(value) in NUMBERS and math.isfinite(value), 'a finite number'),
        'iscrowd': (lambda value: type(value) is not str and value in (0, 1), '0 or 1'),
    },
}


def _broken(content: Any, masks: bool, without: bool) -> str | None:
    """Why the structure of an annotation file is not COCO's, if it is not."""
    if type(content) is not dict:
        return f'expected a dict with images, annotations and categories, got {_short(content)}'
    for part, keys in _KEYS.items():
        items = content.get(part, _ABSENT)
        if items is _ABSENT and part == 'annotations' and without:
            continue
        if type(items) is not list:
            return f"expected a list '{part}', got {'nothing' if items is _ABSENT else _short(items)}"
        if not items and part != 'annotations':
            return f"the list '{part}' is empty"
        for i, each in enumerate(items):
            if type(each) is not dict:
                return f'{part}[{i}] is {_short(each)}, expected a dict. {_ADVICE}'
        for key, (test, expected) in keys.items():
            bad = [i for i, each in enumerate(items) if not test(each.get(key, _ABSENT))]
            absent = [i for i in bad if key not in items[i]]
            if absent:
                return f"{len(absent)} of {len(items)} {part} have no '{key}', first {part}[{absent[0]}]. {_ADVICE}"
            if bad:
                value = _short(items[bad[0]][key])
                return (
                    f"'{key}' of {len(bad)} of {len(items)} {part} is not {expected}, first that of "
                    f'{part}[{bad[0]}]: {value}. {_ADVICE}'
                )
        ids = [each['id'] for each in items]
        if len({type(each) is str for each in ids}) > 1:
            return f'some {part} have a number for an id, others a text. Use one of them'
        if len(set(ids)) < len(ids):
            twice = Counter(ids).most_common(1)[0]
            return f'ids of {part} must differ, and {twice[1]} {part} have the id {twice[0]!r}. {_ADVICE}'
    if masks and content.get('annotations') and not any(each.get('segmentation') for each in content['annotations']):
        return (
            f"none of the {len(content['annotations'])} annotations has a 'segmentation', and masks are trained or "
            'evaluated. Take a model without masks, or a file with them'
        )
    return None


def _unlike(categories: list[dict], classes: Sequence[str]) -> str | None:
    """Why the classes of a data set do not fit the categories of its file, if they do not.

    mmdetection numbers classes by the order of the file's categories, whatever order they are given in.
    """
    names = [each['name'] for each in categories]
    absent = [f"'{name}'" for name in classes if name not in names]
    if absent:
        return (
            f'no category is called {some(absent)}; the file has {some([f"{name!r}" for name in names])}. Set '
            "metainfo.classes of the data set, which is `classes` in a config to copy, to the file's names"
        )
    in_order = [name for name in names if name in classes]
    if len(in_order) != len(classes):
        twice = [f"'{name}'" for name, count in Counter([*in_order, *classes]).items() if count > 2]
        return f'{some(twice)} is the name of several categories or classes; each class needs a name of its own'
    if in_order != list(classes):
        return (
            f'classes are {tuple(classes)}, the file has its categories in the order {tuple(in_order)}, which is how '
            'mmdetection numbers them. Give metainfo.classes in that order'
        )
    return None


def _short(value: Any) -> str:
    """A value of a file, cut to a line."""
    text = json.dumps(value) if value is None or type(value) in (str, int, float, bool) else f'a {type(value).__name__}'
    return text if len(text) <= 40 else f'{text[:40]}...'
