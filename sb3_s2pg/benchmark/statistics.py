"""Statistics of few runs, by rliable (Agarwal et al., 2021)."""

import contextlib
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

try:
    from rliable import library, metrics
except (ImportError, TypeError) as error:  # the latter from arch, which rliable imports, where pandas 3 is installed
    raise ImportError(f"the benchmark needs rliable, install it with `pip install sb3-s2pg[benchmark]` ({error})") from error
from scipy.stats import trim_mean

REPLICATIONS = 2000


class Estimate(NamedTuple):
    """An estimate with its 95 % interval, by stratified bootstrap over the seeds."""

    value: float
    low: float
    high: float


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """rliable draws from numpy's global generator: the same results give the same intervals."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def interquartile_means(scores: Mapping[str, np.ndarray]) -> dict[str, Estimate]:
    """
    :param scores: Scores by algorithm, shape (runs, tasks)
    :return: Interquartile mean of each
    """
    with seeded():
        values, intervals = library.get_interval_estimates(
            scores, lambda matrix: np.array([metrics.aggregate_iqm(matrix)]), reps=REPLICATIONS
        )
    return {name: Estimate(float(values[name][0]), *map(float, intervals[name][:, 0])) for name in scores}


def probabilities_of_improvement(scores: Mapping[str, np.ndarray]) -> dict[tuple[str, str], Estimate]:
    """
    :param scores: Scores by algorithm, shape (runs, tasks)
    :return: For every two algorithms the probability that a run of the first is better than one of the second
    """
    # rliable joins the two names with a comma, and ours may have some
    names = list(scores)
    numbers = list(combinations(range(len(names)), 2))
    pairs = {f"{first},{second}": (scores[names[first]], scores[names[second]]) for first, second in numbers}
    if not pairs:
        return {}
    with seeded():
        values, intervals = library.get_interval_estimates(pairs, metrics.probability_of_improvement, reps=REPLICATIONS)
    better = {}
    for first, second in numbers:
        pair = f"{first},{second}"
        value, low, high = float(values[pair]), *map(float, np.ravel(intervals[pair]))
        better[names[first], names[second]] = Estimate(value, low, high)
        # Equal runs count half
        better[names[second], names[first]] = Estimate(1 - value, 1 - high, 1 - low)
    return better


def interquartile_curves(curves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """
    :param curves: Returns by algorithm, shape (runs, points)
    :return: Interquartile mean over the runs, and lower and upper end of its interval, shape (3, points)
    """
    with seeded():
        # metrics.aggregate_iqm at every point
        values, intervals = library.get_interval_estimates(
            {name: curve[:, None, :] for name, curve in curves.items()},
            lambda array: trim_mean(array.reshape(-1, array.shape[-1]), 0.25, axis=0),
            reps=REPLICATIONS,
        )
    return {name: np.vstack([values[name], intervals[name]]) for name in curves}


def normalized(scores: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """
    Make tasks comparable: 0 is the lowest and 1 the highest mean that an algorithm has on a task.

    :param scores: Scores by algorithm, shape (runs, tasks)
    :return: The same, normalized
    """
    means = np.array([np.mean(matrix, axis=0) for matrix in scores.values()])  # (algorithms, tasks)
    low, high = means.min(axis=0), means.max(axis=0)
    spread = np.where(high > low, high - low, 1.0)
    return {name: (np.asarray(matrix) - low) / spread for name, matrix in scores.items()}
