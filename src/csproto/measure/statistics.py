"""Intervals and paired comparisons."""

import math
from collections.abc import Callable, Iterable

import numpy as np


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927)."""
    if n == 0:
        return 0.0, 1.0
    share, spread = right / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    # The share lies within, which rounding must not undo.
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def bootstrap(
    values: Iterable[float], statistic: Callable[..., float], draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic (Efron 1979).

    statistic: takes `axis`, as numpy's mean and median do.
    """
    data = np.asarray(list(values), dtype=float)
    picks = np.random.default_rng(seed).integers(0, len(data), size=(draws, len(data)))
    low, high = np.quantile(statistic(data[picks], axis=1), [0.025, 0.975])
    return float(low), float(high)
