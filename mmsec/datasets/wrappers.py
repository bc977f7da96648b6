"""Data sets inside others, such as RepeatDataset and ConcatDataset."""

from collections.abc import Iterator
from typing import Any


def inner_datasets(dataset: Any) -> Iterator[Any]:
    """Walk through the data sets that others wrap.

    Args:
        dataset (Any): A data set, its part of a config, or None.

    Yields:
        Any: The data sets that wrap no other, in order.
    """
    if dataset is None:
        return
    one = getattr(dataset, 'dataset', None)
    inner = getattr(dataset, 'datasets', None) if one is None else [one]
    if inner is None:
        yield dataset
    else:
        for each in inner:
            yield from inner_datasets(each)
