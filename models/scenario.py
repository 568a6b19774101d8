"""What a scenario is.

A scenario is one object. Tasks take it and never ask which one it is; flows name it. It is pure:
frames in, frames out, with no files, no environment and no orchestration.

The life of a scenario, in the order in which the tasks call it::

    tables          what is ingested, and the contract of each table
    context         small frames that every shard needs, computed once a run
    prepare_shard   what one shard contributes to training        (mapped over the shards)
    fit             the estimators, the backtest and its metrics   (once, from all the parts)
    load            files of a bundle -> a model that can score
    requested       which keys a scoring run must account for
    gaps            what the inputs lack for them
    score           the published rows of some keys                (mapped over the shards)
    complete        what rows need from those of other shards, such as a rank
    derive, events  tables and events that follow from the published rows
    sections        what the page of a run shows
    judge           what became of published rows                  (mapped over the `as_of`s)
    measures        how good they were; `tallies`: the same, as points of control charts
    watched         the inputs that are watched for drift          (mapped over the shards)
    search          how better hyperparameters of fit are found
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Literal, Protocol

import dataframely as dy
import polars as pl

from models.contracts import Accepted, Folded, accept, appended, last_of_each, replace
from models.interchange import Interchange
from models.page.blocks import Section
from models.search import Space

Frames = Mapping[str, pl.LazyFrame]
"""Input tables by name; each lazy, already at its resolved version and cut to the shard."""

File = pl.DataFrame | str | dict[str, Any]
"""A file of a bundle: a frame (`.parquet`), text (`.txt`, a LightGBM model) or `.json`."""

AsOf = date | datetime


@dataclass(frozen=True)
class Table:
    """An input table of a scenario and its contract.

    `schema` holds columns, types and the rules of a row. `unique` names the columns that identify
    a row: a later row with the same values replaces the earlier one. `shard_by` is the part of
    the key whose hash is the row's shard; empty for a small table that every shard reads whole.
    With `covariates`, further numeric columns are kept as float64. `aliases` are names that columns
    usually have in sources: column -> name, used for a source that lacks the column.
    """

    name: str
    schema: type[dy.Schema]
    unique: tuple[str, ...]
    shard_by: tuple[str, ...] = ()
    covariates: bool = False
    required: bool = True
    aliases: Mapping[str, str] = field(default_factory=dict)
    rows_at_a_time: int | None = None
    """Sources are read and folded so many rows at a time; None: whole, as `check` needs it."""
    harmless: tuple[str, ...] = ()
    """Rules whose breach costs nothing but the row: it does not count where sources are refused."""

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that a source must have."""
        return tuple(self.schema.column_names())

    def accept(self, raw: pl.DataFrame, options: Mapping[str, Any]) -> Accepted:
        """Rows of a file as they came, numbered by `models.contracts.ROW`, split by the contract.

        `options` are those of the ingest; the one that every table knows is `timezone`.
        """
        timezone = options.get("timezone")
        return accept(raw, self.schema, self.unique, covariates=self.covariates, timezone=timezone)

    def check(self, frame: pl.DataFrame, stored: Frames) -> None:
        """Raise `ContractError` where `frame`, the good rows, is wrong as a whole.

        `stored` are the scenario's tables as they are, without those that do not exist yet. Not
        called for tables that are read some rows at a time.
        """

    def fold(self, stored: pl.LazyFrame | None, rows: pl.DataFrame) -> Folded:
        """What accepted rows make of the stored ones of the same shards; None where there is no table yet.

        A row takes the place of an earlier one with the same unique columns, stored or among `rows`.
        """
        latest = rows if self.rows_at_a_time is None else last_of_each(rows, self.unique)
        found = appended(latest) if stored is None else replace(stored, latest, self.unique)
        return dataclasses.replace(found, superseded=rows.height - latest.height)


@dataclass(frozen=True)
class Trained:
    """What `fit` returns: a bundle that has not been saved yet.

    `backtest` holds out-of-sample predictions with actuals, so that the metrics can be computed
    again by anyone. `metrics` is long: `slice, value_of_slice, metric, value`. `headline` are the
    few numbers to show first. `loss` is the one to compare bundles by; lower is better.
    """

    files: Mapping[str, File]
    features: Sequence[str]
    backtest: pl.DataFrame
    metrics: pl.DataFrame
    headline: Mapping[str, float]
    loss: float
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Scores:
    """The outcome of scoring some keys.

    `rows` are the rows to publish, without `as_of`, `bundle` and `run_id`, which publishing adds.
    `keys` has one row per requested key: the key's columns, `status` (one of `scored`, `fallback`,
    `skipped`, `failed`), `rung` and `reason` (both null for `scored` where there is nothing to say).
    """

    rows: pl.DataFrame
    keys: pl.DataFrame


@dataclass(frozen=True)
class Published:
    """The table that a scoring run publishes: columns with polars types, without those added there."""

    name: str
    schema: Mapping[str, Any]
    sort: tuple[str, ...]


@dataclass(frozen=True)
class Event:
    """Something that others may act on: emitted as `almanac.<scenario>.<name>` about `resource`."""

    name: str
    resource: str
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class Outcomes:
    """Where it can be seen what became of published rows.

    `tables` are the inputs that tell it: a change in them can change the verdict on rows. `since` and
    `until` aggregate judged rows to the range of those tables' times that the verdict depends on, ends
    included; null or None: whatever came before, or comes after.
    """

    tables: tuple[str, ...]
    since: pl.Expr | None
    until: pl.Expr


@dataclass(frozen=True)
class ControlChart:
    """A measure that is watched over time: what the page calls it, and on which side of the limits it is worse.

    `every` is the time that a point stands for, beginning at its period.
    """

    label: str
    every: Literal["day", "week"]
    worse: Literal["above", "either side"] = "above"
    format: str = ".3f"


TALLIES: dict[str, Any] = {
    "chart": pl.String,
    "series": pl.String,
    "period": pl.Date,
    "numerator": pl.Float64,
    "denominator": pl.Float64,
    "rows": pl.Int64,
}
"""What judged rows add to points of control charts: sums over all rows of a point, whose value is their ratio."""


class Scenario(Protocol):
    """One batch scoring scenario. See the module's docstring for the order of calls.

    A class that derives from it inherits what most scenarios do not need: `gaps`, `complete`,
    `derive` and `events` that have nothing to say, no `outcomes` to judge what was published by, and
    nothing `watched`.
    """

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def name(self) -> str:
        """The scenario's name: its folder in the store, its commands, its events."""

    @property
    def key(self) -> tuple[str, ...]:
        """Columns that identify what is scored separately."""

    @property
    def tables(self) -> Mapping[str, Table]:
        """The input tables by name."""

    @property
    def cadence(self) -> timedelta | None:
        """How often new data is expected in the first of `tables`; None where nobody waits for it."""
        return None

    @property
    def settled(self) -> Mapping[str, Any]:
        """Options of the ingest that are settled by the first one, since they are part of every stored row."""
        return {}

    def published(self, options: Mapping[str, Any]) -> Published:
        """The table that scoring publishes, given the bundle's options."""

    def resolve_as_of(self, tables: Frames, as_of: AsOf | None, now: datetime) -> AsOf:
        """The time up to which data is used: `as_of` on the scenario's grid, or the last complete one.

        Raises `ContractError` where `as_of` is before the data or after it.
        """

    def due(self, tables: Frames, newest: AsOf, last: AsOf | None, at_most: int) -> list[AsOf]:
        """What a scoring run is to cover that is given no `as_of`, oldest first, where runs catch up.

        `newest` is the last complete `as_of`, `last` the last one that was published, None where none was.
        """
        return [newest]

    def context(self, tables: Frames, as_of: AsOf, options: Mapping[str, Any]) -> dict[str, pl.DataFrame]:
        """Small frames that every shard needs, from all shards together; known at `as_of`."""

    def prepare_shard(
        self, tables: Frames, context: Mapping[str, pl.DataFrame], as_of: AsOf, options: Mapping[str, Any]
    ) -> dict[str, pl.DataFrame]:
        """What one shard contributes to training, by name; frames of one name are concatenated."""

    def fit(
        self, parts: Frames, context: Mapping[str, pl.DataFrame], as_of: AsOf, options: Mapping[str, Any]
    ) -> Trained:
        """Backtest, estimators and calibration from the parts of all shards."""

    def load(self, files: Mapping[str, File]) -> Any:
        """The model made of a bundle's files; loading executes nothing that is in them."""

    def estimate(self, model: Any, rows: pl.DataFrame) -> pl.DataFrame | None:
        """What the model's estimators say of rows of features, for use without a store; None: it has none to ask.

        Each scenario says which columns `rows` has, and which the result adds.
        """
        return None

    def interchange(self, model: Any) -> Interchange | None:
        """The model's estimators as ONNX graphs; None where the scenario exports nothing."""
        return None

    def rebacktest(
        self, model: Any, parts: Frames, backtest: pl.DataFrame, trained_as_of: AsOf
    ) -> tuple[float, float, int] | None:
        """Losses of (`backtest`, `model`) on the same rows that `model` has not seen, and their number.

        None where `model`, trained on data up to `trained_as_of`, has seen them all.
        """

    def requested(self, tables: Frames, as_of: AsOf, options: Mapping[str, Any]) -> pl.LazyFrame:
        """The keys to account for: the key's columns and `shard`, one row each."""

    def gaps(
        self, tables: Frames, keys: pl.DataFrame, as_of: AsOf, options: Mapping[str, Any]
    ) -> pl.DataFrame:
        """What the inputs lack for `keys`, and what the run does about it: few lines, in words; often none."""
        return pl.DataFrame()

    def score(
        self,
        model: Any,
        tables: Frames,
        context: Mapping[str, pl.DataFrame],
        keys: pl.DataFrame,
        as_of: AsOf,
        options: Mapping[str, Any],
    ) -> Scores:
        """Score `keys` in one vectorised pass. Rows of a key do not depend on the other keys."""

    def complete(self, rows: pl.LazyFrame) -> pl.LazyFrame | None:
        """The rows of all shards with what they need from each other; None where they need nothing."""
        return None

    @property
    def derived_tables(self) -> tuple[str, ...]:
        """Names of the tables that `derive` makes; published like the scored rows, by `as_of`."""
        return ()

    def derive(
        self, rows: pl.LazyFrame, earlier: Frames, tables: Frames, as_of: AsOf, options: Mapping[str, Any]
    ) -> dict[str, pl.DataFrame]:
        """Further tables that follow from the published `rows`.

        `earlier` holds the derived tables' rows before `as_of`, of those that exist; `tables` the inputs.
        """
        return {}

    def events(
        self, rows: pl.LazyFrame, derived: Mapping[str, pl.DataFrame], as_of: AsOf, options: Mapping[str, Any]
    ) -> list[Event]:
        """What the published rows call for others to act on; few."""
        return []

    def watched(
        self, tables: Frames, trained_as_of: AsOf, as_of: AsOf, options: Mapping[str, Any]
    ) -> pl.LazyFrame | None:
        """The inputs that are watched for drift, of some shards; None where nothing is.

        A row per key, or less, and `cycle`, the `as_of` that it belongs to, up to `as_of`; a column per feature, in
        a form that has little season of its own. See `models.drift` for null and NaN. What is usual for a
        key is not taken from rows after `trained_as_of`, or from rows before each cycle alone.
        """
        return None

    def watched_scores(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Published columns whose drift is watched; by default `rung`, where there is one."""
        return ("rung",) if "rung" in self.published(options).schema else ()

    def sections(self, run: "RunView") -> list[Section]:
        """What the page of a scoring run shows, most useful first."""

    @property
    def outcomes(self) -> Outcomes | None:
        """Where it can be seen what became of published rows; None where nothing tells."""
        return None

    @property
    def charts(self) -> Mapping[str, ControlChart]:
        """The control charts by name: one or two measures that `tallies` adds up."""
        return {}

    def judge(
        self, published: pl.LazyFrame, tables: Frames, until: AsOf, options: Mapping[str, Any]
    ) -> pl.DataFrame:
        """Published rows of one `as_of` with what became of them up to `until`, once per target.

        `options` are those of the bundle that published them. The result has `bundle` and `run_id` as
        published, no `as_of`, and `pending`: true where the outcome is not known yet; in an order of its own.
        """
        return pl.DataFrame()

    def measures(self, judged: pl.LazyFrame, options: Mapping[str, Any]) -> pl.DataFrame:
        """Metrics of judged rows, long: slice, value_of_slice, metric, value. Pending rows count in none."""
        return pl.DataFrame()

    def tallies(self, judged: pl.DataFrame, options: Mapping[str, Any]) -> pl.DataFrame:
        """What judged rows of one `as_of` add to the points of `charts`; see `TALLIES`."""
        return pl.DataFrame(schema=TALLIES)

    def outcome_losses(
        self, backtest: pl.LazyFrame, judged: pl.LazyFrame, options: Mapping[str, Any]
    ) -> tuple[float, float, int] | None:
        """Losses of (`backtest`, `judged`) on the targets and origins that both have, and their number of rows.

        `backtest` is a challenger's, out of sample; `judged` are rows that the champion published, not
        pending. None where they have nothing in common.
        """
        return None

    def backtest_tallies(self, backtest: pl.LazyFrame, options: Mapping[str, Any]) -> pl.DataFrame:
        """The same of a bundle's backtest: the points before the first published one."""
        return pl.DataFrame(schema=TALLIES)

    @property
    def search(self) -> "Search | None":
        """How better hyperparameters of `fit` are searched; None where there is nothing to tune."""
        return None


class Search(Protocol):
    """How the hyperparameters of a scenario are searched.

    A trial is a value for each choice of `space`. It is judged on folds, one after the other, by the loss
    that bundles are compared by; a fold's estimators know nothing after it begins. The last fold takes no
    part in the search: it judges the winner.
    """

    @property
    def space(self) -> Space:
        """What is searched, by the options of `fit` and `prepare_shard` that it sets."""

    def defaults(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The options with defaults filled in, those of `space` among them."""

    def prepare(
        self, tables: Frames, context: Mapping[str, pl.DataFrame], as_of: AsOf, options: Mapping[str, Any]
    ) -> dict[str, pl.DataFrame]:
        """What one shard contributes to all trials, by name, whatever they try."""

    def folds(self, parts: Frames, as_of: AsOf, options: Mapping[str, Any]) -> list[str]:
        """What the folds are called, earliest first, as far as the history reaches; the last one judges."""

    def losses(
        self, parts: Frames, context: Mapping[str, pl.DataFrame], as_of: AsOf, options: Mapping[str, Any]
    ) -> Iterator[float]:
        """The loss of `options` at each fold, worked out when it is asked for, from that fold and earlier ones."""


@dataclass(frozen=True)
class RunView:
    """What a page may look at: everything lazy, nothing loaded before it is asked for."""

    as_of: AsOf
    bundle: int
    options: Mapping[str, Any]
    tables: Frames
    published: pl.LazyFrame
    previous: pl.LazyFrame | None
    keys: pl.LazyFrame
    backtest: pl.LazyFrame
    metrics: pl.DataFrame
    headline: Mapping[str, float] = field(default_factory=dict)
    gaps: pl.DataFrame = field(default_factory=pl.DataFrame)
    derived: Frames = field(default_factory=dict)
    control: pl.DataFrame = field(default_factory=pl.DataFrame)
    """The points of the control charts, see `models.control`; empty where nothing was evaluated yet."""
    drift: pl.DataFrame = field(default_factory=pl.DataFrame)
    """The lines of all cycles that were compared with a training, see `models.drift`; empty where none was."""
