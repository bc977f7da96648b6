"""Whether the data sets of a config are there and can be read."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config

from mmsec.datasets.wrappers import inner_datasets
from mmsec.errors import InputError


def check_data(cfg: Config, *splits: str) -> None:
    """Check that the data sets' folders and annotation files exist, and folders of classes fit the classifier.

    Args:
        cfg (Config): The config.
        splits (str): Which of 'train', 'val' and 'test' will be read.

    Raises:
        InputError: Names the first path that is missing and the option that moves it, or the classes that do not fit.
    """
    page = 'docs/pretraining.md' if cfg.default_scope == 'mmpretrain' else 'README, "Training on COCO and ADE20K"'
    for split in splits:
        for dataset in inner_datasets((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            root = Path(dataset.get('data_root') or '')
            prefixes = dataset.get('data_prefix') or {}
            names = [prefixes] if isinstance(prefixes, str) else prefixes.values()
            for wanted in (root, *(root / name for name in (dataset.get('ann_file'), *names) if name)):
                if not wanted.exists():
                    raise InputError(
                        f"{split} data: '{wanted}' not found. Put the data set there, link it, or change "
                        f'data_root in the config ({page})'
                    )
    if cfg.default_scope == 'mmpretrain':
        _check_classes(cfg, *splits)


def _check_classes(cfg: Config, *splits: str) -> None:
    """Check that the folders of classes are those of the classifier, and in each split the same.

    mmpretrain numbers the folders of each split by itself: one that is missing shifts the labels of all that follow.
    """
    num_classes = (cfg.model.get('head') or {}).get('num_classes')
    if num_classes is None:
        return
    mixed = (cfg.model.get('data_preprocessor') or {}).get('num_classes')
    if mixed not in (None, num_classes):
        raise InputError(
            f'model.data_preprocessor.num_classes is {mixed} and model.head.num_classes is {num_classes}: set both to '
            'the number of classes'
        )
    first: tuple[Path, list[str]] | None = None
    for split in splits:
        for dataset in inner_datasets((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            if (
                dataset.get('type') not in ('CustomDataset', 'ImageNet')
                or dataset.get('ann_file')
                or dataset.get('split')
            ):
                continue
            folder = Path(dataset.get('data_root') or '') / (dataset.get('data_prefix') or '')
            classes = sorted(each.name for each in folder.iterdir() if each.is_dir())
            if len(classes) != num_classes:
                raise InputError(
                    f"{split} data: '{folder}' holds {len(classes)} folders, each of which is a class, and "
                    f'model.head.num_classes is {num_classes}. Set it, and model.data_preprocessor.num_classes, to the '
                    'number of classes'
                )
            if first and classes != first[1]:
                odd = sorted(set(classes) ^ set(first[1]))
                raise InputError(
                    f"{split} data: '{folder}' and '{first[0]}' hold other classes ({', '.join(odd)} in one of them); "
                    'each split needs a folder for each class'
                )
            first = first or (folder, classes)


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
        for dataset in inner_datasets((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            path = Path(dataset.get('data_root') or '') / (dataset.get('ann_file') or '')
            if path.is_file():
                try:
                    json.loads(path.read_bytes())
                except ValueError as found:
                    return InputError(f"annotation file '{path}' is not JSON: {found}")
    return InputError(f'an annotation file is not JSON: {error}')
