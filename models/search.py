"""The space of a search for hyperparameters, as data, and the rule for giving up a trial.

A space maps names of options to choices, in the order in which they are made. A later choice may depend
on an earlier one: it is made only if the earlier choice has one of the values in `when`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

When = Mapping[str, Sequence[Any]]
"""Earlier choices, each with the values that it may have."""


@dataclass(frozen=True)
class OneOf:
    """One of some values: text, numbers, booleans, or tuples of them."""

    values: tuple[Any, ...]
    when: When = field(default_factory=dict)

    def holds(self, value: Any) -> bool:
        """Whether `value` is one of the values; a list counts as a tuple."""
        return (tuple(value) if isinstance(value, list) else value) in self.values


@dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`, both included; with `log`, its logarithm is uniform."""

    low: int
    high: int
    log: bool = False
    when: When = field(default_factory=dict)

    def holds(self, value: Any) -> bool:
        """Whether `value` is a whole number in the range."""
        return isinstance(value, int) and self.low <= value <= self.high


@dataclass(frozen=True)
class Real:
    """A number from `low` to `high`; with `log`, its logarithm is uniform."""

    low: float
    high: float
    log: bool = False
    when: When = field(default_factory=dict)

    def holds(self, value: Any) -> bool:
        """Whether `value` is a number in the range."""
        return isinstance(value, int | float) and self.low <= value <= self.high


Choice = OneOf | Whole | Real
Space = Mapping[str, Choice]


def chosen(space: Space, choose: Callable[[str, Choice], Any]) -> dict[str, Any]:
    """One value for each choice that applies; `choose(name, choice)` makes them in the order of the space.

    >>> space = {"tree": OneOf(("small", "large")), "leaves": Whole(2, 64, when={"tree": ("large",)})}
    >>> chosen(space, lambda name, choice: choice.values[0] if isinstance(choice, OneOf) else choice.low)
    {'tree': 'small'}
    """
    result: dict[str, Any] = {}
    for name, choice in space.items():
        if all(result.get(earlier) in values for earlier, values in choice.when.items()):
            result[name] = choose(name, choice)
    return result


def of_options(space: Space, options: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `options` for the choices that apply.

    >>> of_options({"leaves": Whole(2, 64)}, {"leaves": 8, "seed": 7})
    {'leaves': 8}
    """

    def choose(name: str, _: Choice) -> Any:
        value = options[name]
        return tuple(value) if isinstance(value, list) else value

    return chosen(space, choose)


def inside(space: Space, values: Mapping[str, Any]) -> bool:
    """Whether the `space` allows each of the `values`."""
    return all(space[name].holds(value) for name, value in values.items())


LEAST_TRIALS = 5
"""Number of complete trials before a trial may be given up."""


def bars(complete: Sequence[Sequence[float]]) -> list[float]:
    """For each fold, the mean loss up to that fold above which a trial is given up.

    It is the median of these means over the `complete` trials, which have the losses of all folds. It is infinite
    with fewer than `LEAST_TRIALS` complete trials, and at the last fold, after which a trial is complete.
    The median stopping rule of Golovin et al. (2017), Google Vizier, KDD, on running means.

    >>> bars([[1.0, 3.0]] * 5)
    [1.0, inf]
    """
    if not complete:
        return []
    folds = len(complete[0])
    if len(complete) < LEAST_TRIALS:
        return [float("inf")] * folds
    medians = [median(fmean(losses[: fold + 1]) for losses in complete) for fold in range(folds - 1)]
    return [*medians, float("inf")]


def given_up(losses: Sequence[float], bars: Sequence[float]) -> bool:
    """Whether a trial with these losses of its folds so far is not worth another fold.

    >>> given_up([2.0], [1.0, float("inf")]), given_up([1.0], [1.0, float("inf")])
    (True, False)
    """
    return len(losses) <= len(bars) and fmean(losses) > bars[len(losses) - 1]
