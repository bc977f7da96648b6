"""Data sets of a config, looked at one after another."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine import fileio
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS

from mmsec.cli.heads import check_classes
from mmsec.cli.options import dicts_of
from mmsec.datasets.annotations import look_at_annotations, read_annotations
from mmsec.datasets.findings import UNUSABLE_SHARE, Findings, some
from mmsec.datasets.samples import LabelMaps, look_at_samples
from mmsec.datasets.skip_broken import SkipBroken
from mmsec.datasets.wrappers import inner_datasets
from mmsec.errors import InputError

_SAMPLES = 32  # of each data set, of which a run reads images and label maps before it starts


class Look:
    """A look at one data set after another.

    Args:
        cfg (Config): A config of any host, whose scope is in force.
        whole (bool): Whether all images and label maps are read, not a sample of each data set.

    Attributes:
        found (list[Findings]): Of each data set and annotation file so far.
    """

    def __init__(self, cfg: Config, whole: bool) -> None:
        self.cfg = cfg
        self.limit = None if whole else _SAMPLES
        self.found: list[Findings] = []
        self.checked: list[Sequence[str]] = []  # classes that were compared with the heads
        self.first: tuple[str, list[str]] | None = None
        self._content: tuple[str, Any] = ('', None)
        hooks = [each for _, each in dicts_of(cfg.get('custom_hooks')) if name_of(each) == 'BrokenDataHook']
        shares = [each.get('max_share', 0.01) for each in hooks]
        self.max_share = max([UNUSABLE_SHARE, *shares])
        self.files_share = min([self.max_share, *shares]) if whole else self.max_share  # a sample is no exact count

    def at_split(self, split: str) -> list[Findings]:
        """Look at the data sets of a split, then at the files that its evaluators read; what was found in the first."""
        ids: set = set()
        data: list[Findings] = []
        for config in inner_datasets((self.cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            found = Findings(f"{split} data '{config.get('ann_file') or config.get('data_root')}'")
            data.append(found)
            self.found.append(found)
            try:
                ids |= self._at(found, config)
            except InputError as error:
                found.refused.append(str(error))
        for metric in metrics_of(self.cfg, split):
            coco = name_of(metric) == 'CocoMetric' and metric.get('ann_file') and not metric.get('format_only')
            if coco and data and not any(each.refused for each in data):
                self._at_metric(split, metric, data[0], ids)
        return data

    def _at(self, found: Findings, config: dict) -> set:
        """Look at a data set; the ids of the images of an annotation file."""
        ids: set = set()
        dataset = self._build(found.data, config)
        classes = getattr(dataset, 'metainfo', {}).get('classes') or ()
        path = getattr(dataset, 'ann_file', '') or next(iter(getattr(dataset, 'data_prefix', {}).values()), '')
        found.data = f"{found.data.split()[0]} data '{path}'"
        reader, parser = _owner(dataset, 'load_data_list'), _owner(dataset, 'parse_data_info')
        if (reader, parser) == ('mmdet.CocoDataset', 'mmdet.CocoDataset'):
            ids = self._at_coco(found, config, dataset)
        elif reader == 'mmseg.BaseSegDataset':
            self._at_label_maps(found, config, dataset)
        elif reader == 'mmpretrain.CustomDataset':
            classes = self._at_folders(found, config, dataset)
        else:
            found.data += f' ({type(dataset).__name__}: only paths and classes are looked at)'
        self.first = self.first or (path, list(classes))
        if classes and list(classes) != self.first[1]:
            odd = sorted({*classes} ^ {*self.first[1]})
            reason = f'{some(odd)} in one of them' if odd else 'in another order'
            found.refused.append(
                f"{found.data.split()[0]} data: '{path}' and '{self.first[0]}' hold other classes ({reason}); each "
                'split needs the same'
            )
        indices = config.get('indices')
        if found.left is not None and indices is not None:
            found.left = min(found.left, abs(indices)) if isinstance(indices, int) else len(indices)
        return ids

    def _build(self, data: str, config: dict) -> Any:
        """A data set that has not read its files, and whose classes fit the heads."""
        given = (config.get('metainfo') or {}).get('classes')
        if given is not None and not (Path(given).is_file() if isinstance(given, str) else given):
            check_classes(self.cfg, {'classes': given}, data)
        try:
            dataset = DATASETS.build({**config, 'lazy_init': True, 'pipeline': []})
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise InputError(f'{data}: it cannot be built: {" ".join(str(error).split())}') from error
        metainfo = getattr(dataset, 'metainfo', {})
        classes = metainfo.get('classes')
        if classes and classes not in self.checked and not config.get('return_classes'):  # of open vocabularies
            self.checked.append(classes)
            check_classes(self.cfg, metainfo, data)
        return dataset

    def _read(self, path: str, backend_args: dict | None) -> Any:
        """The content of an annotation file, which is kept until another is read."""
        if self._content[0] != path:
            self._content = ('', None)
            self._content = (path, read_annotations(path, backend_args))
        return self._content[1]

    def _at_coco(self, found: Findings, config: dict, dataset: Any) -> set:
        """Look at an annotation file and its images; the ids of the images."""
        masks = [each for each in steps_of(config, 'LoadAnnotations') if each.get('with_mask')]
        content = self._read(dataset.ann_file, dataset.backend_args)
        look = look_at_annotations(
            content,
            dataset.metainfo['classes'],
            found.data,
            masks=bool(masks),
            only_polygons=any(not each.get('poly2mask', True) for each in masks),
            without=dataset.test_mode,
            filter_cfg=None if dataset.test_mode else dataset.filter_cfg,
            max_share=self.max_share,
        )
        vars(found).update(vars(look))
        if not found.images:
            return set()
        folder = dataset.data_prefix.get('img')
        if folder is None:
            found.refuse("data_prefix has no 'img', the folder of the images; mmdetection reads no other key")
            return set()
        names = ('height', 'width')
        samples = [
            {'img_path': fileio.join_path(folder, image['file_name'])} | {name: image[name] for name in names}
            for image in content['images']
        ]
        self._at_samples(found, config, samples, None)
        return {image['id'] for image in content['images']}

    def _at_metric(self, split: str, metric: dict, data: Findings, ids: set) -> None:
        """Look at the annotation file that pycocotools compares predictions with."""
        path, kinds = metric['ann_file'], metric.get('metric', 'bbox')
        found = Findings(f"{split} evaluator '{path}'")
        try:
            content = self._read(path, metric.get('backend_args'))
        except InputError as error:
            found.refused.append(str(error))
            self.found.append(found)
            return
        classes, masks = self.first[1] if self.first else [], 'segm' in kinds
        share = self.max_share
        found = look_at_annotations(content, classes, found.data, masks=masks, evaluated=True, max_share=share)
        found.classes = {}  # the table has those of the data set
        own = {image['id'] for image in content['images']} if found.images else ids
        if ids - own:
            found.refuse(
                f'it lacks {len(ids - own)} of the {len(ids)} images that are evaluated. Set '
                f'{split}_evaluator.ann_file to the file of {split}_dataloader.dataset'
            )
        elif ids and own - ids:
            found.passed_over['images that are not evaluated, and count as having no prediction'] = len(own - ids)
        same = found.data.endswith(data.data.removeprefix(f'{split} data'))
        if same:  # say nothing twice
            found.left_out = {key: names for key, names in found.left_out.items() if key not in data.left_out}
            found.passed_over = {key: n for key, n in found.passed_over.items() if key not in data.passed_over}
        if not same or found.refused or found.left_out or found.passed_over:
            self.found.append(found)

    def _at_label_maps(self, found: Findings, config: dict, dataset: Any) -> None:
        """Look at images and label maps of mmsegmentation."""
        samples = dataset.load_data_list()
        found.images = found.left = len(samples)
        if not samples:
            folder, suffix = dataset.data_prefix.get('img_path', ''), dataset.img_suffix
            others = Counter(
                Path(each).suffix for each in fileio.list_dir_or_file(folder, list_dir=False, recursive=True)
            )
            has = ', '.join(f"{count} '{name}'" for name, count in others.most_common(3)) or 'no file'
            found.refuse(f"no image '*{suffix}' in '{folder}', which has {has}. Set img_suffix or data_prefix")
            return
        reading = steps_of(config, 'LoadAnnotations')
        label_maps = None
        if reading and 'seg_map_path' in samples[0]:
            heads = [each for place, each in dicts_of(self.cfg.model) if place.split('.')[-1].endswith('head')]
            label_maps = LabelMaps(
                dataset.metainfo['classes'],
                dataset.reduce_zero_label,
                dataset.label_map or {},
                frozenset(each.get('ignore_index', 255) for each in heads) or frozenset({255}),
                reading[0].get('imdecode_backend', 'pillow'),
                reading[0].get('backend_args'),
            )
        self._at_samples(found, config, samples, label_maps)

    def _at_folders(self, found: Findings, config: dict, dataset: Any) -> Sequence[str]:
        """Look at the images of a classifier, by folders or by a list; the classes."""
        num_classes = (self.cfg.model.get('head') or {}).get('num_classes')
        mixed = (self.cfg.model.get('data_preprocessor') or {}).get('num_classes')
        if None not in (num_classes, mixed) and mixed != num_classes:
            raise InputError(
                f'model.data_preprocessor.num_classes is {mixed} and model.head.num_classes is {num_classes}: set both '
                'to the number of classes'
            )
        split = found.data.split()[0]
        in_folders = dataset.with_label and not dataset.ann_file
        if in_folders and num_classes is not None:
            folder = Path(dataset.img_prefix)
            folders = [each.name for each in folder.iterdir() if each.is_dir()]
            if len(folders) != num_classes:
                raise InputError(
                    f"{split} data: '{folder}' holds {len(folders)} folders, each of which is a class, and "
                    f'model.head.num_classes is {num_classes}. Set it, and model.data_preprocessor.num_classes, to the '
                    'number of classes'
                )
        try:
            samples = dataset.load_data_list()
        except (AssertionError, RuntimeError, ValueError) as error:
            lines = ' Each line of the list is an image and the number of its class.' if dataset.ann_file else ''
            found.refuse(f'it cannot be read: {" ".join(str(error).split())}.{lines}')
            return ()
        classes = dataset.metainfo.get('classes') or ()
        found.images = found.left = len(samples)
        if not samples:
            found.refuse('no image')
        if dataset.with_label:
            counts = Counter(each['gt_label'] for each in samples)
            limit = num_classes or len(classes)
            beyond = sorted(label for label in counts if not 0 <= label < limit)
            if limit and beyond:
                labels = some([str(label) for label in beyond])
                found.refuse(f'labels {labels} are beyond the {limit} classes, which are 0 to {limit - 1}')
            names = classes or [str(label) for label in range(limit)]
            found.classes = {name: counts[label] for label, name in enumerate(names)}
        self._at_samples(found, config, samples, None)
        return dataset.metainfo['classes'] if in_folders else ()

    def _at_samples(self, found: Findings, config: dict, samples: Sequence[dict], label_maps: LabelMaps | None) -> None:
        """Read images and label maps; one that is broken ends a run unless mmsec.SkipBroken reads it."""
        loading = steps_of(config, 'LoadImageFromFile')
        with TRANSFORMS.switch_scope_and_registry(None):
            loader = SkipBroken(loading[:1]) if loading else None
        share = self.files_share if steps_of(config, 'SkipBroken') else 0
        look_at_samples(found, samples, loader, label_maps, self.limit, share)


def length_of(dataset: dict, left: Iterator[int | None]) -> int | None:
    """Images in an epoch of a data set that may wrap others, of which is known how many images are left."""
    if 'datasets' in dataset:
        lengths = [length_of(each, left) for each in dataset['datasets']]
        return None if None in lengths else sum(each for each in lengths if each)
    if 'dataset' not in dataset:
        return next(left)
    length = length_of(dataset['dataset'], left)
    kinds = {'RepeatDataset': dataset.get('times', 1), 'MultiImageMixDataset': 1}
    factor = kinds.get(name_of(dataset))
    return None if None in (length, factor) else math.prod((length or 0, factor or 0))


def metrics_of(cfg: Config, split: str) -> list[dict]:
    """The metrics of a split's evaluator."""
    return [each for _, each in dicts_of(cfg.get(f'{split}_evaluator')) if name_of(each).endswith('Metric')]


def steps_of(config: dict, name: str) -> list[dict]:
    """The transforms of one name in a data set's pipeline, also those inside others."""
    return [each for _, each in dicts_of(config.get('pipeline')) if name_of(each) == name]


def name_of(part: dict) -> str:
    """The name of a part's class, without its scope."""
    kind = part.get('type', '')
    return kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', '')


def _owner(dataset: Any, method: str) -> str:
    """The package and class that defines a method of a data set."""
    owner = next((each for each in type(dataset).__mro__ if method in vars(each)), object)
    return f'{owner.__module__.split(".")[0]}.{owner.__name__}'
