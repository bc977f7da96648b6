"""Whether the data sets of a config are there and can be read."""

from pathlib import Path

from mmengine.config import Config

from mmsec.datasets.wrappers import inner_datasets
from mmsec.errors import InputError


def check_data(cfg: Config, *splits: str) -> None:
    """Refuse data of 'train', 'val' or 'test' that is missing or cut off, or whose classes are not the classifier's."""
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
                if wanted.suffix == '.json' and not _is_closed(wanted):
                    raise InputError(f"{split} data: annotation file '{wanted}' is cut off or not JSON")
    if cfg.default_scope == 'mmpretrain':
        _check_classes(cfg, *splits)


def _is_closed(path: Path) -> bool:
    """Whether a file begins and ends as a JSON object or list does; what is between is not read."""
    with path.open('rb') as file:
        begin = file.read(64).strip()[:1]
        file.seek(-min(64, path.stat().st_size), 2)
        return begin + file.read().strip()[-1:] in (b'{}', b'[]')


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
            in_folders = dataset.get('type') in ('CustomDataset', 'ImageNet')
            if not in_folders or dataset.get('ann_file') or dataset.get('split'):
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
