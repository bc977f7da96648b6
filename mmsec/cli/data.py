"""One look at the data of a config, before time is spent on it."""

from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log

from mmsec.cli.data_sets import Look, length_of, metrics_of
from mmsec.cli.schedule import check_warm_up
from mmsec.datasets.findings import Findings, table
from mmsec.datasets.wrappers import inner_datasets
from mmsec.errors import InputError


def check_paths(cfg: Config, *splits: str) -> None:
    """Refuse data of 'train', 'val' or 'test' of which a file or folder is missing."""
    page = 'docs/pretraining.md' if cfg.default_scope == 'mmpretrain' else 'docs/get_started.md'
    for split in splits:
        paths = [Path(each['ann_file']) for each in metrics_of(cfg, split) if each.get('ann_file')]
        for dataset in inner_datasets((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            root = Path(dataset.get('data_root') or '')
            prefixes = dataset.get('data_prefix') or {}
            names = [prefixes] if isinstance(prefixes, str) else prefixes.values()
            paths += [root, *(root / name for name in (dataset.get('ann_file'), *names) if name)]
        for path in paths:
            if '://' not in str(path) and ':/' not in str(path) and not path.exists():
                raise InputError(
                    f"{split} data: '{path}' not found. Put the data set there, link it, or change "
                    f'data_root in the config ({page})'
                )


def check_data(cfg: Config, *splits: str) -> None:
    """Look at the data of 'train', 'val' or 'test', log what is in them, and refuse what no run can use.

    Annotation files are read once; of images and label maps a sample. See :func:`look_at_data`.
    """
    found = look_at_data(cfg, *splits)
    if any(each.images for each in found):
        print_log(f'data:\n{table(found)}', 'current')
    refused = [reason for each in found for reason in each.refused]
    if refused:
        more = f' (and {len(refused) - 1} more: tools/check_data.py lists them)' if refused[1:] else ''
        raise InputError(refused[0] + more)


def look_at_data(cfg: Config, *splits: str, whole: bool = False) -> list[Findings]:
    """Look at the data sets of a config and at the annotation files of its evaluators.

    Args:
        cfg (Config): A config of any host, whose scope is in force.
        splits (str): 'train', 'val' or 'test'.
        whole (bool): Whether all images and label maps are read, not a sample of each data set.

    Returns:
        list[Findings]: One for each data set and annotation file of an evaluator. That of the training data also
            refuses a warm-up that is longer than the training.

    Raises:
        InputError: If a file or folder is missing.
    """
    check_paths(cfg, *splits)
    look = Look(cfg, whole)
    for split in splits:
        found = look.at_split(split)
        if split == 'train' and not any(each.refused for each in found):
            try:
                check_warm_up(cfg, length_of(cfg.train_dataloader.dataset, iter([each.left for each in found])))
            except InputError as error:
                found[0].refused.append(str(error))
    return look.found
