"""The model of a bundle: for every component and horizon, a probability of failure or the reason why there is none."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.machines import estimators, lives
from models.machines.calibration import IDENTITY, Calibration, calibrated_probabilities
from models.machines.costs import cheapest
from models.machines.equipment import Gaps
from models.machines.estimators import Estimator, Floats, Matrix
from models.machines.features import Feature, used_features
from models.machines.lives import Life
from models.machines.options import Options
from models.machines.vocabulary import Vocabulary
from models.scenario import File

MODEL, BASE_RATE, NO_MODEL = "model", "base_rate", "no_model"

_LEARNT = (
    *("every_hours", "windows_hours", "error_windows_hours", "normal_days", "normal_gap_hours", "estimator"),
    *("use_short_windows", "use_spread", "use_normal", "use_errors", "use_attributes"),
)

_OF_RISK = (
    *("component", "horizon_hours", "rung", "base_rate", "reason"),
    *("calibration", "failures", "bills"),
)
"""The fields of a risk in the bundle's file `model`; its estimator has a file of its own."""


@dataclass(frozen=True)
class Risk:
    """One component and horizon: `rung` is `model`, `base_rate` or `no_model`; `reason` says why there is no model.

    `bills` are the results of alarms from each threshold on, on held-out rows with `failures` failures, see `costs`.
    """

    component: str
    horizon_hours: int
    rung: str
    base_rate: float
    reason: str | None = None
    estimator: Estimator | None = None
    calibration: Calibration = field(default_factory=lambda: IDENTITY)
    failures: int = 0
    bills: Sequence[Mapping[str, float]] = ()

    def predict(self, X: Matrix) -> Floats:
        """Calibrated probability per row; NaN without a model."""
        if self.estimator is not None:
            return calibrated_probabilities(self.estimator.predict(X), self.calibration)
        return np.full(len(X), self.base_rate if self.rung == BASE_RATE else np.nan)

    def threshold(self, options: Options) -> float:
        """The probability from which to raise an alarm at the costs of `options`."""
        own = replace(options, missed_failure_cost=options.missed_cost(self.component))
        return cheapest(self.bills, self.failures, own)


@dataclass(frozen=True)
class Model:
    """All risks and lives, with the vocabulary and the options of their features.

    A bundle of an earlier version has no lives, and no `gaps`: components that types of machines do not have.
    """

    vocabulary: Vocabulary
    options: Options
    risks: tuple[Risk, ...]
    lives: tuple[Life, ...] = ()
    gaps: Gaps = ()

    @property
    def features(self) -> list[Feature]:
        return used_features(self.vocabulary, self.options)

    def options_for(self, options: Mapping[str, Any]) -> Options:
        """Options of a run that uses the model: those that shape the features are the model's, the rest are `options`."""
        return Options.of({**options, **{name: getattr(self.options, name) for name in _LEARNT}})

    def matrix(self, rows: pl.DataFrame) -> Matrix:
        """The features of `rows` as the estimators expect them; NaN for a column that `rows` lacks."""
        return matrix(rows, [f.name for f in self.features])

    def predict(self, X: Matrix) -> dict[tuple[str, int], Floats]:
        """Probability per row by component and horizon; NaN without a model.

        A failure within a day is also one within a week: a probability is at least that of each
        shorter horizon.
        """
        probabilities: dict[tuple[str, int], Floats] = {}
        least: dict[str, Floats] = {}
        for risk in sorted(self.risks, key=lambda r: (r.component, r.horizon_hours)):
            p = risk.predict(X)
            least[risk.component] = np.fmax(p, least.get(risk.component, p))
            probabilities[risk.component, risk.horizon_hours] = np.where(
                np.isnan(p), p, least[risk.component]
            )
        return probabilities

    def files(self) -> dict[str, File]:
        """The files of the bundle: `model`, and one for each estimator."""
        entries, files = [], {}
        for i, risk in enumerate(self.risks):
            name = f"risk_{i}_{risk.horizon_hours}h" if risk.estimator is not None else None
            if risk.estimator is not None and name:
                files[name] = risk.estimator.file()
            entries.append({field: getattr(risk, field) for field in _OF_RISK} | {"file": name})
        options = {name: getattr(self.options, name) for name in _LEARNT}
        model = {"vocabulary": asdict(self.vocabulary), "options": options, "risks": entries}
        model |= {"gaps": [[*gap] for gap in self.gaps]} if self.gaps else {}
        if self.lives:
            model["lives"] = [
                life.entry(f"life_{i}" if life.estimator else None) for i, life in enumerate(self.lives)
            ]
        files |= {f"life_{i}": life.estimator.file() for i, life in enumerate(self.lives) if life.estimator}
        return {"model": model, **files}


def load(files: Mapping[str, File]) -> Model:
    """The model from a bundle's files; nothing in them is executed."""
    model = files["model"]
    if not isinstance(model, Mapping):
        raise TypeError(f"model is {type(model).__name__}. Expected the JSON object of a machines bundle.")
    return Model(
        vocabulary=Vocabulary.of_dict(model["vocabulary"]),
        options=Options.of(model["options"]),
        risks=tuple(_risk(entry, files) for entry in model["risks"]),
        lives=tuple(lives.load(entry, files) for entry in model.get("lives", [])),
        gaps=tuple((kind, component) for kind, component in model.get("gaps", [])),
    )


def matrix(rows: pl.DataFrame, names: Sequence[str]) -> NDArray[np.float32]:
    """Columns `names` of `rows` as float32, shape (rows, names); NaN for nulls and missing columns."""
    out = np.full((rows.height, len(names)), np.nan, dtype=np.float32)
    for i, name in enumerate(names):
        if name in rows.columns:
            out[:, i] = rows[name].cast(pl.Float32).fill_null(float("nan")).to_numpy()
    return out


def _risk(entry: Mapping[str, Any], files: Mapping[str, File]) -> Risk:
    estimator = estimators.load(files[entry["file"]]) if entry["file"] else None
    return Risk(**{field: entry[field] for field in _OF_RISK}, estimator=estimator)
