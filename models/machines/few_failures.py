"""The uncertainty of a rate that is based on few failures, whatever the model."""

from collections.abc import Mapping

FEW_FAILURES = 20
_CHANCE = 0.8
_SHOWN = 10


def rate_interval(failures: int) -> tuple[float, float]:
    """80 % bounds of a rate, as multiples of the rate estimated from `failures` failures.

    Garwood (1936), "Fiducial limits for the Poisson distribution", Biometrika 28.

    >>> tuple(round(bound, 2) for bound in rate_interval(5))
    (0.49, 1.85)
    """
    from scipy.stats import chi2

    tail = (1 - _CHANCE) / 2
    low, high = chi2.ppf(tail, 2 * failures), chi2.ppf(1 - tail, 2 * failures + 2)
    return float(low) / 2 / failures, float(high) / 2 / failures


def few_failures(counts: Mapping[str, int]) -> str | None:
    """A note on components that failed fewer than `FEW_FAILURES` times; None if there are none."""
    few = sorted((count, name) for name, count in counts.items() if 0 < count < FEW_FAILURES)
    if not few:
        return None
    names = ", ".join(f"{name} {count}" for count, name in few[:_SHOWN])
    low, high = rate_interval(few[0][0])
    more = f" and {len(few) - _SHOWN:,} more" if len(few) > _SHOWN else ""
    return (
        f"few failures ({names}{more}): no precision can be claimed; by chance alone, {few[0][1]} fails {low:.1f} to "
        f"{high:.1f} times as often as its probabilities say, in 80 % of such cases"
    )
