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
    DerivesTables.derive       tables that follow from the published rows; `DerivesFromBundle`: and from the bundle
    EmitsEvents.events         events that follow from them
    HasPage.sections           what the page of a run shows
    HasGroundTruth.judge       published rows with what happened later        (mapped over the `as_of`s)
    HasGroundTruth.measures    how good they were; `HasControlCharts.tallies`: the same, as points of charts
    WatchesInputs.watched      the inputs that are watched for drift          (mapped over the shards)
    EvaluatesBundles.evaluate  what a bundle would have said over a range    (mapped over the shards)
    HasEstimators              the estimators without a store, and as ONNX graphs
    HasSearch.search           how better hyperparameters of `fit` are found
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
    HasControlCharts,
    HasGroundTruth,
    Outcomes,
)
from models.scenario.inputs import AsOf, Frames, Table
from models.scenario.results import Event, File, Published, Scores, Trained
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
    "Frames",
    "HasControlCharts",
    "HasEstimators",
    "HasGroundTruth",
    "HasPage",
    "HasSearch",
    "MeetsChampions",
    "Outcomes",
    "Published",
    "ReportsGaps",
    "RunView",
    "Scenario",
    "Scores",
    "Search",
    "Table",
    "Trained",
    "WatchesInputs",
]
