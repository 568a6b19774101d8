"""The contract of a scenario.

A scenario is one object. Flows name it; tasks take it and never check which one it is. It is pure:
frames in, frames out, with no files, no environment and no orchestration.

`Scenario` is an abstract class with what every scenario has. Everything else is a capability, a further base
class: `class Mine(Scenario, HasPage, ReportsGaps)`. Tasks check for
a capability with `isinstance`. An incomplete class, of either kind, cannot be instantiated;
`models.checks.check_scenario` tests what signatures cannot express.

The members in the order in which tasks call them; those without a class are members of `Scenario`::

    tables                     what is ingested, and the contract of each table
    context                    small frames that every shard needs, computed once a run
    prepare_shard              what one shard contributes to training        (mapped over the shards)
    fit                        the estimators, the backtest and its metrics   (once, from all the parts)
    load                       files of a bundle -> a model that can score
    MeetsChampions.rebacktest  losses of a champion on the backtest of a challenger
    CatchesUp.due_as_ofs       the `as_of`s that a run without one covers
    requested_keys             which keys a scoring run must account for
    ReportsGaps.gaps           what the inputs lack for them
    score                      the published rows of some keys                (mapped over the shards)
    CompletesRows.complete     what rows need from those of other shards, such as a rank
    ExplainsRows.explain       how published rows differ from what is usual
    DerivesTables.derive       tables derived from the published rows; `DerivesFromBundle`: and from the bundle
    EmitsEvents.events         events for the published rows
    HasPage.sections           the page of a run
    HasGroundTruth.judge       published rows with their ground truth         (mapped over the `as_of`s)
    HasGroundTruth.measures    their accuracy; `HasControlCharts.tallies`: the same, as points of charts
    WatchesInputs.watched_inputs   the inputs that are watched for drift      (mapped over the shards)
    EvaluatesBundles.evaluate  judged rows of a bundle over a range           (mapped over the shards)
    HasEstimators              the estimators without a store, and as ONNX graphs
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
from models.scenario.inputs import AsOf, Frames, Table
from models.scenario.results import Event, File, FitResult, PublishedTable, Scores
from models.scenario.run_view import RunView
from models.scenario.searches import Search

__all__ = [
    "TALLIES",
    "AsOf",
    "CatchesUp",
    "CompletesRows",
    "ControlChart",
    "DerivesFromBundle",
    "DerivesTables",
    "EmitsEvents",
    "EvaluatesBundles",
    "Event",
    "ExplainsRows",
    "File",
    "FitResult",
    "Frames",
    "GroundTruth",
    "HasControlCharts",
    "HasEstimators",
    "HasGroundTruth",
    "HasPage",
    "HasSearch",
    "MeetsChampions",
    "PublishedTable",
    "ReportsGaps",
    "RunView",
    "Scenario",
    "Scores",
    "Search",
    "Table",
    "WatchesInputs",
]
