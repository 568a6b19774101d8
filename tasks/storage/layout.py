"""The paths in a store of everything that belongs to a scenario."""

from dataclasses import dataclass

DRIFT = "drift"
"""The name of the table of the drift of inputs and scores."""


@dataclass(frozen=True)
class Layout:
    """The paths of one scenario, relative to the store.

    >>> Layout("energy").table("forecasts")
    'energy/forecasts'
    """

    scenario: str

    def table(self, name: str) -> str:
        """A Delta table: an input, a published table, or one that tasks keep, such as `registry`."""
        return f"{self.scenario}/{name}"

    def bundle(self, number: int) -> str:
        """The folder of a bundle's files."""
        return f"{self.scenario}/bundles/{number}"

    @property
    def runs(self) -> str:
        """The folder that holds the folders of all runs."""
        return f"{self.scenario}/runs"

    def run(self, run_id: str) -> str:
        """The folder of a run's intermediate files."""
        return f"{self.runs}/{run_id}"

    def page(self, run_id: str) -> str:
        """The page of a run."""
        return f"{self.scenario}/pages/{run_id}.html"

    @property
    def pace(self) -> str:
        """The duration of the longest shard, by flow."""
        return f"{self.scenario}/pace.json"

    @property
    def pages(self) -> str:
        """The folder of all pages."""
        return f"{self.scenario}/pages"

    @property
    def studies(self) -> str:
        """The folder of all studies."""
        return f"{self.scenario}/studies"

    def study(self, run_id: str) -> str:
        """The trials of a study, in SQLite."""
        return f"{self.studies}/{run_id}.db"

    @property
    def announced(self) -> str:
        """The versions of the tables that the last event `ingested` announced."""
        return f"{self.scenario}/announced.json"

    @property
    def units(self) -> str:
        """The units that were left out of the numbers of columns, by table."""
        return f"{self.scenario}/units.json"

    @property
    def options(self) -> str:
        """The options that the first ingest fixed."""
        return f"{self.scenario}/scenario.json"
