"""Which published times have received rows since they were scored."""

from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from models.scenario import CatchesUp
from tasks.scoring.catch_up import _changed, _touched
from tasks.storage.store import Store

MOMENTS = st.integers(0, 12).map(
    lambda half_hours: datetime(2024, 1, 1, tzinfo=UTC) + half_hours * timedelta(minutes=30)
)
HOUR = timedelta(hours=1)


@given(st.lists(MOMENTS, unique=True), st.lists(st.tuples(MOMENTS, MOMENTS).map(sorted).map(tuple)))
def test_a_time_is_touched_by_rows_of_its_cadence(as_ofs, spans):
    slowly = [one for one in as_ofs if any(begin < one and end >= one - HOUR for begin, end in spans)]
    assert _touched(as_ofs, HOUR, spans) == slowly


class Unchanged(CatchesUp):
    def due_as_ofs(self, *_):
        return []


def test_times_whose_rows_cannot_be_compared_because_their_version_is_gone_are_scored_again(tmp_path):
    store = Store(str(tmp_path))
    for once in ("first", "second"):
        store.append("toy/values", pl.DataFrame({"value": [1.0]}), once=once)
    as_ofs = [datetime(2024, 1, 1, tzinfo=UTC)]
    assert _changed(Unchanged(), store, "toy/values", 0, {}, as_ofs) == []
    store.table("toy/values").create_checkpoint()
    (tmp_path / "toy/values/_delta_log" / f"{0:020}.json").unlink()
    assert _changed(Unchanged(), store, "toy/values", 0, {}, as_ofs) == as_ofs
