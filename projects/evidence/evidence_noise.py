"""When a difference between runs is beyond noise: docs/evidence.md, "What is noise"."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from evidence_runs import PUBLISHED, SEEDS

FACTOR = 2  # noise: up to this many pooled standard deviations


def pooled_spread(rows: Iterable[Sequence[float]]) -> float | None:
    """The standard deviation over the seeds of a row, pooled over all rows by their degrees of freedom."""
    several = [values for values in rows if len(values) > 1]
    freedom = sum(len(values) - 1 for values in several)
    squares = sum((len(values) - 1) * statistics.variance(values) for values in several)
    return math.sqrt(squares / freedom) if several else None


def spread_beside_seeds(rows: Sequence[Sequence[float]]) -> float | None:
    """The residual standard deviation of rows with the same seeds, after the means of rows and of seeds."""
    if len(rows) < 2 or len(rows[0]) < 2:
        return None
    values = np.array(rows)
    rest = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    freedom = (values.shape[0] - 1) * (values.shape[1] - 1)
    return math.sqrt((rest**2).sum() / freedom)


def verdict(row: dict, default: dict | None, spread: float | None) -> tuple[str, str]:
    """The difference of a row's mean from that of the default grouping, and whether it is beyond noise."""
    if default is None or default is row or not row['values'] or not default['values']:
        return '', 'default' if default is row else ''
    difference = row['mean'] - default['mean']
    if spread is None or min(len(row['values']), len(default['values'])) < SEEDS:
        return f'{difference:+.2f}', 'too few seeds'
    if abs(difference) <= FACTOR * spread:
        return f'{difference:+.2f}', 'no'
    return f'{difference:+.2f}', f'yes, {"higher" if difference > 0 else "lower"}'


def beyond_noise(rows: Mapping[str, dict], names: Mapping[str, str], spread: float) -> str:
    """The rows of a table that differ from the default grouping by more than noise, in words."""
    default = rows.get(PUBLISHED)
    judged = {name: verdict(rows[text], default, spread)[1] for text, name in names.items() if text in rows}
    beyond = [f'{name} ({said.removeprefix("yes, ")})' for name, said in judged.items() if said.startswith('yes')]
    return ', '.join(beyond) or ('none' if 'no' in judged.values() else 'not known, too few seeds')
