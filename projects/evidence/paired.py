"""Differences between rows that have seeds in common: docs/evidence.md, "How sure"."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.stats import ttest_rel


class Difference(NamedTuple):
    """A row's mean minus the baseline's, with the limits of its 95 % interval, and p-values of a paired t-test."""

    pairs: int
    mean: float
    low: float
    high: float
    std: float
    p: float
    adjusted: float


def differences(rows: Mapping[str, Mapping[str, float]], baseline: str) -> dict[str, Difference]:
    """The difference of each row from the baseline, over the seeds of both; none where these are fewer than three.

    ``rows`` has a metric by name and seed. ``adjusted`` is Holm's correction of ``p`` over all differences.
    """
    found: dict[str, Difference] = {}
    for name, values in rows.items():
        seeds = sorted(values.keys() & rows[baseline].keys())
        if name != baseline and len(seeds) > 2:
            pairs = np.array([[values[seed], rows[baseline][seed]] for seed in seeds])
            test, each = ttest_rel(*pairs.T), pairs[:, 0] - pairs[:, 1]
            low, high = test.confidence_interval()
            found[name] = Difference(len(seeds), each.mean(), low, high, each.std(ddof=1), test.pvalue, np.nan)
    by_p = sorted(found, key=lambda name: found[name].p)
    larger = np.maximum.accumulate([min(1, (len(by_p) - i) * found[name].p) for i, name in enumerate(by_p)])
    adjusted = dict(zip(by_p, larger, strict=True))
    return {name: each._replace(adjusted=adjusted[name]) for name, each in found.items()}
