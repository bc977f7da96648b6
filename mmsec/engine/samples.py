"""Random numbers of a training sample by its place in the run, whoever loads it and whenever."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from torch.utils.data import DataLoader, Dataset


class PlacedBatches:
    """A batch sampler that tells each index its place in the run: (seed, epoch, number in the epoch of all processes).

    Args:
        batches (Any): The batch sampler of this process.
        seed (int): Of the run.
    """

    def __init__(self, batches: Any, seed: int) -> None:
        self.batches = batches
        self.seed = seed
        self.start(0)

    def start(self, epoch: int) -> None:
        """Begin an epoch."""
        self.epoch, self._number, self._behind = epoch, 0, 0

    def skip(self, batches: int) -> None:
        """Leave out so many batches from the beginning of the next pass."""
        self._behind = batches

    def __iter__(self) -> Iterator[list[tuple[Any, tuple[int, ...]]]]:
        rank, world = get_rank(), get_world_size()
        for batch in self.batches:
            numbers = range(self._number * world + rank, (self._number + len(batch)) * world, world)
            self._number += len(batch)
            if self._behind:
                self._behind -= 1
                continue
            yield [(index, (self.seed, self.epoch, number)) for index, number in zip(batch, numbers, strict=True)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str) -> Any:  # sampler, batch_size: others look at them
        return getattr(self.batches, name)


class _Items:
    """What torch asks a data set for, a batch at once: each sample is drawn with the random numbers of its place."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __call__(self, places: Sequence[tuple[Any, tuple[int, ...]]]) -> list:
        samples = []
        for index, place in places:
            seed_all(place)
            samples.append(self.dataset[index])
        return samples


def seed_all(place: tuple[int, ...], devices: bool = False) -> None:
    """Seed NumPy, Python, and torch on the CPU or on all devices."""
    seeds = np.random.SeedSequence(place).generate_state(3, np.uint64)
    (torch if devices else torch.default_generator).manual_seed(int(seeds[0]))
    np.random.seed(int(seeds[1]) % 2**32)
    random.seed(int(seeds[2]))


def place_samples(loader: DataLoader, seed: int) -> PlacedBatches:
    """Make the samples of a loader that has started no worker yet depend on their place in the run alone."""
    batches = PlacedBatches(loader.batch_sampler, seed)
    # DataLoader refuses the assignment, because workers may hold the old one.
    object.__setattr__(loader, 'batch_sampler', batches)
    loader.dataset.__getitems__ = _Items(loader.dataset)  # type: ignore[attr-defined]
    return batches
