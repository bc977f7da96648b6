"""When a difference between runs is more than noise; docs/evidence.md says it in words."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from evidence_runs import PUBLISHED, SEEDS

FACTOR = 2  # noise is what is up to so many times the spread


def pooled_spread(rows: Iterable[Sequence[float]]) -> float | None:
    """The standard deviation over the seeds of a row, pooled over all rows by their degrees of freedom."""
    several = [values for values in rows if len(values) > 1]
    freedom = sum(len(values) - 1 for values in several)
    squares = sum((len(values) - 1) * statistics.variance(values) for values in several)
    return math.sqrt(squares / freedom) if several else None


def spread_beside_seeds(rows: Sequence[Sequence[float]]) -> float | None:
    """The standard deviation that is left where all rows have the same seeds, with the mean of each seed taken off."""
    if len(rows) < 2 or len(rows[0]) < 2:
        return None
    values = np.array(rows)
    rest = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    freedom = (values.shape[0] - 1) * (values.shape[1] - 1)
    return math.sqrt((rest**2).sum() / freedom)


def verdict(row: dict, published: dict | None, spread: float | None) -> tuple[str, str]:
    """The difference of a row's mean to the published grouping's, and whether it is more than noise."""
    if published is None or published is row or not row['values'] or not published['values']:
        return '', 'the published one' if published is row else ''
    difference = row['mean'] - published['mean']
    if spread is None or min(len(row['values']), len(published['values'])) < SEEDS:
        return f'{difference:+.2f}', 'too few seeds'
    if abs(difference) <= FACTOR * spread:
        return f'{difference:+.2f}', 'within noise'
    return f'{difference:+.2f}', f'{"higher" if difference > 0 else "lower"}, beyond noise'


def beyond_noise(rows: Mapping[str, dict], names: Mapping[str, str], spread: float) -> str:
    """The rows of a table that differ from the published grouping by more than noise, in words."""
    published = rows.get(PUBLISHED)
    judged = {name: verdict(rows[text], published, spread)[1] for text, name in names.items() if text in rows}
    beyond = [f'{name} ({said.partition(", ")[0]})' for name, said in judged.items() if said.endswith('beyond noise')]
    return ', '.join(beyond) or ('none' if 'within noise' in judged.values() else 'not known, too few seeds')
