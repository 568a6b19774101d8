"""Flows that begin with an ingest."""

from types import SimpleNamespace

from flows.reading import ingests


def test_the_notes_of_an_ingest_and_its_quarantine_precede_those_of_the_run():
    def ingest(source: str, store: str | None = None) -> dict[str, object]:
        """Args:
        source: S.
        store: URI
        """
        rules = {"units|min": 2} if source == "bad" else {}
        return {"tables": [{"table": "history", "read": 9, "rules": rules, "alike": ("'1' like '01'.",)}]}

    @ingests(SimpleNamespace(fn=ingest))
    def run(_: dict[str, object], store: str | None = None) -> dict[str, object]:
        return {"notes": ["stale"]} if store is None else {}

    quarantined = "history: 2 of 9 rows are in quarantine: units|min."
    assert run(source="bad") == {"notes": ["'1' like '01'.", quarantined, "stale"]}
    assert run(source="good") == {"notes": ["'1' like '01'.", "stale"]}
    assert run(source="good", store="s") == {"notes": ["'1' like '01'."]}
