"""The contract of a scenario.

A scenario is one object. Flows name it; tasks take it and never check which one it is. It is pure:
frames in, frames out, without files, environment or orchestration.

`Scenario` is an abstract class with the members of every scenario. Everything else is a capability, another base
class: `class Mine(Scenario, HasPage, ReportsGaps)`. Tasks check for a capability with `isinstance`. A class that lacks
a member of either cannot be instantiated; `models.checks.check_scenario` tests the rules that signatures cannot express.

The members in the order in which tasks call them; those without a class are members of `Scenario`::

    tables                     the input tables, each with its contract
    context                    small frames that every shard needs, computed once per run
    training_context           more of them, for training only
    prepare_shard              the contribution of one shard to training     (mapped over the shards)
    fit                        the estimators, the backtest and its metrics   (once, from all the parts)
    load                       files of a bundle -> a model that can score
    MeetsChampions.rebacktest  losses of a champion on the backtest of a challenger
    CatchesUp.due_as_ofs       the `as_of`s that a run without one covers
    requested_keys             the keys that a scoring run must account for
    ReportsGaps.gaps           gaps in the inputs for these keys
    score                      the published rows of some keys                (mapped over the shards)
    CompletesRows.complete     values that depend on the rows of other shards, such as a rank
    ExplainsRows.explain       how published rows differ from what is usual
    DerivesTables.derive       tables derived from the published rows; `DerivesFromBundle`: also from the bundle
    EmitsEvents.events         events for the published rows
    HasPage.sections           the page of a run
    HasGroundTruth.judge       published rows with their ground truth         (mapped over the `as_of`s)
    HasGroundTruth.measures    their accuracy; `HasControlCharts.tallies`: the same, for points of charts
    WatchesInputs.watched_inputs   the inputs that are watched for drift      (mapped over the shards)
    EvaluatesBundles.evaluate  judged rows of a bundle over a range           (mapped over the shards)
    HasEstimators              using the estimators without a store, and as ONNX graphs
    HasSearch.search           the search for better hyperparameters of `fit`
"""

from models.scenario.capabilities import (
    CatchesUp,
    CompletesRows,
    DerivesFromBundle,
    DerivesTables,
    EmitsEvents,
    ExplainsRows,
    HasEstimators,
    HasPage,
    HasSearch,
    MeetsChampions,
    ReportsGaps,
    WatchesInputs,
)
from models.scenario.contract import Scenario
from models.scenario.ground_truth import (
    TALLIES,
    ControlChart,
    EvaluatesBundles,
    GroundTruth,
    HasControlCharts,
    HasGroundTruth,
)
from models.scenario.inputs import AsOf, Context, Frames, Table, with_shard
from models.scenario.results import Event, File, FitResult, PublishedTable, Scores
from models.scenario.run_view import RunView
from models.scenario.searches import Search
from models.scenario.training import train
