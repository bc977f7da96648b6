"""Whether the data sets of a config are there and can be read."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config

from mmsec.datasets.wrappers import inner_datasets
from mmsec.errors import InputError


def check_data(cfg: Config, *splits: str) -> None:
    """Check that the data sets' folders and annotation files exist.

    Args:
        cfg (Config): The config.
        splits (str): Which of 'train', 'val' and 'test' will be read.

    Raises:
        InputError: Names the first path that is missing and the option that moves it.
    """
    for split in splits:
        for dataset in inner_datasets((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            root = Path(dataset.get('data_root') or '')
            prefixes = dataset.get('data_prefix') or {}
            for wanted in (root, *(root / name for name in (dataset.get('ann_file'), *prefixes.values()) if name)):
                if not wanted.exists():
                    raise InputError(
                        f"{split} data: '{wanted}' not found. Put the data set there, link it, or change "
                        'data_root in the config (README, "Training on COCO and ADE20K")'
                    )


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
