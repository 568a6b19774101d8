"""Which published times have received rows since they were scored."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from tasks.scoring.catch_up import _touched

MOMENTS = st.integers(0, 12).map(
    lambda half_hours: datetime(2024, 1, 1, tzinfo=UTC) + half_hours * timedelta(minutes=30)
)
HOUR = timedelta(hours=1)


@given(st.lists(MOMENTS, unique=True), st.lists(st.tuples(MOMENTS, MOMENTS).map(sorted).map(tuple)))
def test_a_time_is_touched_by_rows_of_its_cadence(as_ofs, spans):
    slowly = [one for one in as_ofs if any(begin < one and end >= one - HOUR for begin, end in spans)]
    assert _touched(as_ofs, HOUR, spans) == slowly
