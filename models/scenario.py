"""What a scenario is.

A scenario is one object. Tasks take it and never ask which one it is; flows name it. It is pure:
frames in, frames out, with no files, no environment and no orchestration.

`Scenario` is an abstract class with what every scenario has. All else is a capability, a class that a
scenario derives from as well when it has it: `class Mine(Scenario, HasPage, ReportsGaps)`. Tasks ask for
a capability with `isinstance`. An incomplete class, of either kind, cannot be instantiated;
`models.checks.check_scenario` tests what signatures cannot say.

The life of a scenario, in the order in which the tasks call it; members that are not named `Class.member`
are those of `Scenario`::

    tables                     what is ingested, and the contract of each table
    context                    small frames that every shard needs, computed once a run
    prepare_shard              what one shard contributes to training        (mapped over the shards)
    fit                        the estimators, the backtest and its metrics   (once, from all the parts)
    load                       files of a bundle -> a model that can score
    MeetsChampions.rebacktest  how a champion does on the backtest of a challenger
    CatchesUp.due              which `as_of`s a run covers that is given none
    requested                  which keys a scoring run must account for
    ReportsGaps.gaps           what the inputs lack for them
    score                      the published rows of some keys                (mapped over the shards)
    CompletesRows.complete     what rows need from those of other shards, such as a rank
    ExplainsRows.explain       what moved published rows away from what is usual
    DerivesTables.derive       tables that follow from the published rows
    EmitsEvents.events         events that follow from them
    HasPage.sections           what the page of a run shows
    HasGroundTruth.judge       published rows with what happened later        (mapped over the `as_of`s)
    HasGroundTruth.measures    how good they were; `HasControlCharts.tallies`: the same, as points of charts
    WatchesInputs.watched      the inputs that are watched for drift          (mapped over the shards)
    EvaluatesBundles.evaluate  what a bundle would have said over a range    (mapped over the shards)
    HasEstimators              the estimators without a store, and as ONNX graphs
    HasSearch.search           how better hyperparameters of `fit` are found
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from models.contracts import Accepted, Folded, accept, appended, last_of_each, replace
from models.interchange import Interchange
from models.layouts import Layout
from models.page.blocks import Section
from models.search import Space

if TYPE_CHECKING:
    from models.schemas import dy

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
    schema: "type[dy.Schema]"
    unique: tuple[str, ...]
    shard_by: tuple[str, ...] = ()
    covariates: bool = False
    required: bool = True
    aliases: Mapping[str, str] = field(default_factory=dict)
    rows_at_a_time: int | None = None
    """Sources are read and folded so many rows at a time; None: whole, as `check` needs it."""
    harmless: tuple[str, ...] = ()
    """Rules whose breach costs nothing but the row: it does not count where sources are refused."""
    ahead: timedelta = timedelta(days=2)
    """How far after the clock the times that identify a row may be; later ones are mistakes."""
    amounts: tuple[str, ...] = ()
    """Columns that add up where rows with the same unique columns are added up."""
    wide: tuple[str, str] | None = None
    """The column for the names, and the one for the cells, of the many columns of a wide file."""

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that a source must have."""
        return tuple(self.schema.column_names())

    def accept(self, raw: pl.DataFrame, options: Mapping[str, Any]) -> Accepted:
        """Rows of a file as they came, numbered by `models.contracts.ROW`, split by the contract.

        `options` are those of the ingest; those that every table knows are `timezone`, `dates` (see
        `models.times`), `duplicates` (see `models.contracts`) and `now`.
        """
        return accept(
            raw,
            self.schema,
            self.unique,
            covariates=self.covariates,
            timezone=options.get("timezone"),
            dates=options.get("dates"),
            latest=(options.get("now") or datetime.now(UTC)) + self.ahead,
            duplicates=options.get("duplicates"),
            amounts=self.amounts,
        )

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

    def replacing(self, stored: pl.LazyFrame | None, rows: pl.DataFrame) -> Folded:
        """What accepted rows that are all there is of their time make of the stored ones; see `fold`."""
        return self.fold(stored, rows)

    def corrected(self, stored: pl.LazyFrame, rows: pl.LazyFrame) -> pl.DataFrame:
        """The unique columns and shard of stored rows that accepted `rows` correct under other unique columns.

        They are removed once `rows` are in the table. Here none are.
        """
        return stored.head(0).select(self.identifying).collect()

    @property
    def identifying(self) -> tuple[str, ...]:
        """The columns that find a row in the table: the unique ones, and the shard where there are shards."""
        return (*self.unique, "shard") if self.shard_by else self.unique


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


class Scenario(ABC):
    """One batch scoring scenario: what every one must have, and six members with a default.

    See the module's docstring for the order of calls and for the capabilities that a scenario may add.
    """

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    @abstractmethod
    def name(self) -> str:
        """The scenario's name: its folder in the store, its commands, its events."""

    @property
    @abstractmethod
    def key(self) -> tuple[str, ...]:
        """Columns that identify what is scored separately."""

    @property
    @abstractmethod
    def tables(self) -> Mapping[str, Table]:
        """The input tables by name."""

    @property
    def cadence(self) -> timedelta | None:
        """How often new data is expected in the first of `tables`; None where nobody waits for it."""
        return None

    @property
    def settled(self) -> Mapping[str, Any]:
        """Options of the ingest that the first one fixes, since they are part of every stored row."""
        return {}

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """How files of other products hold the tables, by the name that `--layout` gives. By default none."""
        return {}

    @property
    def formats(self) -> tuple[int, ...]:
        """Formats of bundles that `load` reads; `fit` writes the last one.

        Add a number when the files change so that an earlier version cannot load them; drop one when `load` no
        longer reads it. Only a champion of a format that is not listed is replaced without a comparison.
        """
        return (1,)

    @abstractmethod
    def published(self, options: Mapping[str, Any]) -> Published:
        """The table that scoring publishes, given the bundle's options."""

    @abstractmethod
    def resolve_as_of(self, tables: Frames, as_of: AsOf | None, now: datetime) -> AsOf:
        """The time up to which data is used: `as_of` on the scenario's grid, or the last complete one.

        Raises `ContractError` where `as_of` is before the data or after it.
        """

    def context(self, tables: Frames, as_of: AsOf, options: Mapping[str, Any]) -> dict[str, pl.DataFrame]:
        """Small frames that every shard needs, from all shards together; known at `as_of`. By default none."""
        return {}

    def prepare_shard(
        self, tables: Frames, context: Mapping[str, pl.DataFrame], as_of: AsOf, options: Mapping[str, Any]
    ) -> dict[str, pl.DataFrame]:
        """What one shard contributes to training, by name; frames of one name are concatenated.

        By default the shard's rows of each sharded table, all of them: `fit` then cuts them at `as_of`.
        """
        return {
            name: tables[name].collect()
            for name, table in self.tables.items()
            if table.shard_by and name in tables
        }

    @abstractmethod
    def fit(
        self, parts: Frames, context: Mapping[str, pl.DataFrame], as_of: AsOf, options: Mapping[str, Any]
    ) -> Trained:
        """Backtest, estimators and calibration from the parts of all shards."""

    @abstractmethod
    def load(self, files: Mapping[str, File]) -> Any:
        """The model made of a bundle's files; loading executes nothing that is in them."""

    @abstractmethod
    def requested(self, tables: Frames, as_of: AsOf, options: Mapping[str, Any]) -> pl.LazyFrame:
        """The keys to account for: the key's columns and `shard`, one row each."""

    @abstractmethod
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


class MeetsChampions(ABC):
    """A challenger can be compared with a champion on rows that the champion has not seen.

    Without it only bundles trained up to the same `as_of` are compared, by the losses of their backtests.
    """

    @abstractmethod
    def rebacktest(
        self, model: Any, parts: Frames, backtest: pl.DataFrame, trained_as_of: AsOf
    ) -> tuple[float, float, int] | None:
        """Losses of (`backtest`, `model`) on the same rows that `model` has not seen, and their number.

        None where `model`, trained on data up to `trained_as_of`, has seen them all.
        """


class CatchesUp(ABC):
    """A run that is given no `as_of` covers the ones that were missed. Without it, the newest alone."""

    @abstractmethod
    def due(self, tables: Frames, newest: AsOf, published: Collection[AsOf], at_most: int) -> Sequence[AsOf]:
        """Every `as_of` that is complete and not `published`, oldest first; `newest` is the last complete one.

        Those before the first published one are not due. Where nothing was published, the newest `at_most`.
        """

    def changed(self, before: Frames, now: Frames, as_ofs: Collection[AsOf]) -> Sequence[AsOf]:
        """Those of `as_ofs` whose own rows differ between two versions of the tables: they are scored again."""
        return []


class ExplainsRows(ABC):
    """The scenario says what moved a published row away from what is usual for its key."""

    @abstractmethod
    def worth_explaining(self, published: pl.LazyFrame, options: Mapping[str, Any]) -> pl.LazyFrame:
        """The published rows that a page explains: few enough for one process."""

    @abstractmethod
    def explain(
        self,
        model: Any,
        tables: Frames,
        context: Mapping[str, pl.DataFrame],
        rows: pl.DataFrame,
        as_of: AsOf,
        options: Mapping[str, Any],
    ) -> pl.DataFrame:
        """A line per row of `rows`, published ones of some keys: numbers that add up, and `reasons` in words."""


class ReportsGaps(ABC):
    """The scenario says what its inputs lack."""

    @abstractmethod
    def gaps(
        self, tables: Frames, keys: pl.DataFrame, as_of: AsOf, options: Mapping[str, Any]
    ) -> pl.DataFrame:
        """What the inputs lack for `keys`, and what the run does about it: few lines, in words; often none."""


class CompletesRows(ABC):
    """Published rows need something from those of other shards, such as a rank."""

    @abstractmethod
    def complete(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """The rows of all shards with what they need from each other."""


class DerivesTables(ABC):
    """Further tables are published by `as_of` with the scored rows."""

    @property
    @abstractmethod
    def derived_tables(self) -> tuple[str, ...]:
        """Names of the tables."""

    def derive(
        self, rows: pl.LazyFrame, earlier: Frames, tables: Frames, as_of: AsOf, options: Mapping[str, Any]
    ) -> dict[str, pl.DataFrame]:
        """The tables that follow from the published `rows`.

        `earlier` holds the derived tables' rows before `as_of`, of those that exist; `tables` the inputs.
        """
        return {}


class EmitsEvents(ABC):
    """Published rows call for others to act."""

    @abstractmethod
    def events(
        self, rows: pl.LazyFrame, derived: Mapping[str, pl.DataFrame], as_of: AsOf, options: Mapping[str, Any]
    ) -> list[Event]:
        """What the published rows call for others to act on; few."""


class HasPage(ABC):
    """The page of a run shows more than its control charts and its drift."""

    @abstractmethod
    def sections(self, run: "RunView") -> list[Section]:
        """What the page of a scoring run shows, most useful first."""


class HasGroundTruth(ABC):
    """Tables of the scenario tell later whether published rows were right."""

    @property
    @abstractmethod
    def outcomes(self) -> Outcomes:
        """Where it can be seen what became of published rows."""

    @abstractmethod
    def judge(
        self, published: pl.LazyFrame, tables: Frames, until: AsOf, options: Mapping[str, Any]
    ) -> pl.DataFrame:
        """Published rows of one `as_of` with what became of them up to `until`, once per target.

        `options` are those of the bundle that published them. The result has `bundle` and `run_id` as
        published, no `as_of`, and `pending`: true where the ground truth is not known yet; in an order of its own.
        """

    @abstractmethod
    def measures(self, judged: pl.LazyFrame, options: Mapping[str, Any]) -> pl.DataFrame:
        """Metrics of judged rows, long: slice, value_of_slice, metric, value. Pending rows count in none."""

    def outcome_losses(
        self, backtest: pl.LazyFrame, judged: pl.LazyFrame, options: Mapping[str, Any]
    ) -> tuple[float, float, int] | None:
        """Losses of (`backtest`, `judged`) on the targets and origins that both have, and their number of rows.

        `backtest` is a challenger's, out of sample; `judged` are rows that the champion published, not
        pending. None where they have nothing in common.
        """
        return None


class HasControlCharts(HasGroundTruth):
    """One or two measures of judged rows are watched over time."""

    @property
    @abstractmethod
    def charts(self) -> Mapping[str, ControlChart]:
        """The control charts by name."""

    @abstractmethod
    def tallies(self, judged: pl.DataFrame, options: Mapping[str, Any]) -> pl.DataFrame:
        """What judged rows of one `as_of` add to the points of `charts`; see `TALLIES`."""

    def backtest_tallies(self, backtest: pl.LazyFrame, options: Mapping[str, Any]) -> pl.DataFrame:
        """The same of a bundle's backtest: the points before the first published one."""
        return pl.DataFrame(schema=TALLIES)


class EvaluatesBundles(Scenario, HasGroundTruth):
    """A scenario that can say what a bundle would have said over a range of time."""

    @property
    @abstractmethod
    def bundle_evaluations(self) -> str:
        """Name of the table that the judged rows of bundles are in, by what was then the last `as_of`."""

    @abstractmethod
    def evaluate(
        self,
        model: Any,
        tables: Frames,
        context: Mapping[str, pl.DataFrame],
        as_of: AsOf,
        options: Mapping[str, Any],
    ) -> pl.DataFrame:
        """Judged rows of one shard from `score_from` to `score_to`, by what is known at `as_of`."""


class WatchesInputs(ABC):
    """Inputs are watched for drift. Without it, only the rungs of published rows are."""

    @abstractmethod
    def watched(
        self, tables: Frames, trained_as_of: AsOf, as_of: AsOf, options: Mapping[str, Any]
    ) -> pl.LazyFrame:
        """The inputs that are watched for drift, of some shards.

        A row per key, or less, and `cycle`, the `as_of` that it belongs to, up to `as_of`; a column per feature, in
        a form that has little season of its own. See `models.drift` for null and NaN. What is usual for a
        key is not taken from rows after `trained_as_of`, or from rows before each cycle alone.
        """

    def watched_scores(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Published columns whose drift is watched, those that exist."""
        return ("rung",)


class HasEstimators(ABC):
    """The estimators of a bundle can be used without a store."""

    @abstractmethod
    def estimate(self, model: Any, rows: pl.DataFrame) -> pl.DataFrame:
        """What the model's estimators say of rows of features.

        Each scenario says which columns `rows` has, and which the result adds.
        """

    @abstractmethod
    def interchange(self, model: Any) -> Interchange:
        """The model's estimators as ONNX graphs."""


class HasSearch(ABC):
    """The hyperparameters of `fit` can be tuned."""

    @property
    @abstractmethod
    def search(self) -> "Search":
        """How better hyperparameters of `fit` are searched."""


class Search(ABC):
    """How the hyperparameters of a scenario are searched.

    A trial is a value for each choice of `space`. It is judged on folds, one after the other, by the loss
    that bundles are compared by; a fold's estimators know nothing after it begins. The last fold takes no
    part in the search: it judges the winner.
    """

    @property
    @abstractmethod
    def space(self) -> Space:
        """What is searched, by the options of `fit` and `prepare_shard` that it sets."""

    @abstractmethod
    def defaults(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The options with defaults filled in, those of `space` among them."""

    @abstractmethod
    def prepare(
        self, tables: Frames, context: Mapping[str, pl.DataFrame], as_of: AsOf, options: Mapping[str, Any]
    ) -> dict[str, pl.DataFrame]:
        """What one shard contributes to all trials, by name, whatever they try."""

    @abstractmethod
    def folds(self, parts: Frames, as_of: AsOf, options: Mapping[str, Any]) -> list[str]:
        """What the folds are called, earliest first, as far as the history reaches; the last one judges."""

    @abstractmethod
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
    explanations: pl.DataFrame = field(default_factory=pl.DataFrame)
    """Lines of `ExplainsRows.explain` for the rows that are worth it; empty where the scenario has none."""
    control: pl.DataFrame = field(default_factory=pl.DataFrame)
    """The points of the control charts, see `models.control`; empty where nothing was evaluated yet."""
    drift: pl.DataFrame = field(default_factory=pl.DataFrame)
    """The lines of all cycles that were compared with a training, see `models.drift`; empty where none was."""
