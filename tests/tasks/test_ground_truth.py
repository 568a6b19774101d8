"""Which rows are due to be judged, and their judgement; steps are called one by one, without Prefect."""

from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from models import control
from models.scenario import TALLIES, Scenario
from tasks.monitoring import ground_truth
from tasks.monitoring.control_charts import announce_degraded, control_points, points_so_far
from tasks.monitoring.due import judged_so_far, resolve_judging
from tasks.monitoring.ground_truth import judge, measure_judgements
from tasks.page.run_page import write_page
from tasks.registry import bundles
from tasks.scoring.publishing import Publication, complete
from tasks.scoring.runs import RunError
from tasks.training.fit import EVALUATIONS
from tests import steps
from tests.toy import HOURLY, TOY, Plain, Toy, hourly_values, values

pytestmark = pytest.mark.usefixtures("without_run_logger")

DAYS = [date(2024, 1, 1) + timedelta(days=n) for n in range(6)]


def resolve(store, since=None, until=None, at_most=100, scenario: Scenario = TOY):
    return resolve_judging.fn(scenario, store, since, until, at_most)


def finish(judging, scenario: Scenario = TOY) -> Publication:
    verdicts = [one for group in judging.groups for one in judge.fn(judging.run, group)]
    publication = ground_truth.publish_judgements.fn(judging.run, verdicts)
    measure_judgements.fn(judging.run, judging.targets, publication.version)
    ground_truth.remember_judgements.fn(judging, verdicts)
    return publication


def evaluate(store, **options) -> Publication:
    scenario = options.get("scenario", TOY)
    return finish(resolve(store, **options), scenario)


def rows(store, scenario: Scenario = TOY) -> pl.DataFrame:
    return store.scan(f"{scenario.name}/{EVALUATIONS}").collect().sort("as_of", "name")


def as_ofs(judging) -> list:
    return [target.as_of for target in judging.targets]


@pytest.fixture
def scored(store):
    """Values of four days, of which those of days 2, 3 and 4 were scored."""
    steps.put(store, values(days=4))
    steps.train(store, as_of=DAYS[0])
    for day in DAYS[1:4]:
        steps.score(store, as_of=day)
    return store


def test_each_published_row_is_judged_once_by_what_then_happened(scored):
    evaluate(scored)
    verdicts = rows(scored)
    scores = steps.published(scored).sort("as_of", "name")
    assert verdicts.select("as_of", "name", "value", "bundle", "run_id").equals(
        scores.select("as_of", "name", "value", "bundle", "run_id")
    )
    actual = values(days=4).rename({"value": "actual"})
    by_hand = verdicts.drop("actual").join(actual, on=["name", "at"], how="left", maintain_order="left")
    assert verdicts["actual"].equals(by_hand["actual"])
    assert verdicts.filter("pending")["as_of"].unique().to_list() == [DAYS[3]]


def test_what_is_judged_and_known_is_not_judged_again_and_what_was_pending_is(scored):
    evaluate(scored)
    assert as_ofs(resolve(scored)) == []
    steps.put(scored, values(days=5))
    assert as_ofs(resolve(scored)) == [DAYS[3]]
    evaluate(scored)
    assert not rows(scored)["pending"].any()
    assert as_ofs(resolve(scored)) == []


def test_restated_values_restate_the_rows_they_concern_and_no_others(scored):
    evaluate(scored)
    before = rows(scored)
    restated = values(days=4).filter(at=DAYS[2]).with_columns(pl.col("value") + 100)
    steps.put(scored, restated)
    judging = resolve(scored)
    # the last day is pending, so any change of the values may be news to it
    assert as_ofs(judging) == [DAYS[1], DAYS[3]]
    finish(judging)
    concerned = pl.col("as_of") == DAYS[1]
    after = rows(scored)
    assert (after.filter(concerned)["actual"] - before.filter(concerned)["actual"]).unique().to_list() == [
        100
    ]
    assert after.filter(~concerned).equals(before.filter(~concerned))
    assert as_ofs(resolve(scored)) == []


def test_what_is_published_anew_is_judged_anew(scored):
    evaluate(scored)
    steps.score(scored, as_of=DAYS[1], columns=["more"])
    assert as_ofs(resolve(scored)) == [DAYS[1]]
    evaluate(scored)
    verdicts = rows(scored)
    assert verdicts.filter(as_of=DAYS[1])["more"].to_list() == [1.0] * 12
    assert verdicts.filter(as_of=DAYS[2])["more"].null_count() == 12


def test_evaluated_twice_gives_the_same_rows_in_the_same_version(scored):
    first = evaluate(scored, since=DAYS[1])
    again = evaluate(scored, since=DAYS[1])
    assert again.already
    assert again.version == first.version
    assert rows(scored).height == 36


def test_a_run_that_was_stopped_judges_what_is_missing_when_it_is_started_again(scored, monkeypatch):
    judging = resolve(scored)
    judge.fn(judging.run, judging.groups[0])
    as_ofs_read = []

    def noted(self, published, tables, until, options):
        as_ofs_read.append(published.select(pl.col("as_of").first()).collect().item())
        return Toy.judge(TOY, published, tables, until, options)

    class Noted(Toy):
        judge = noted

    again = resolve(scored, scenario=Noted())
    assert again.run.id == judging.run.id
    finish(again, Noted())
    assert as_ofs_read == DAYS[2:4]
    assert rows(scored).height == 36
    assert scored.scan("toy/measures").collect()["run_id"].n_unique() == 1


def test_a_run_that_was_stopped_before_it_was_remembered_publishes_nothing_twice(scored):
    judging = resolve(scored)
    verdicts = [one for group in judging.groups for one in judge.fn(judging.run, group)]
    first = ground_truth.publish_judgements.fn(judging.run, verdicts)
    assert judged_so_far(scored, "toy") is None
    again = evaluate(scored)
    assert (again.already, again.version) == (True, first.version)
    assert judged_so_far(scored, "toy").height == 3


def test_a_range_is_judged_whether_it_is_due_or_not(scored):
    evaluate(scored)
    assert as_ofs(resolve(scored, since=DAYS[1], until=DAYS[2])) == DAYS[1:3]
    assert as_ofs(resolve(scored, until=DAYS[1])) == [DAYS[1]]


def test_without_a_range_the_oldest_come_first_and_the_others_are_left_for_the_next_run(scored):
    first = resolve(scored, at_most=2)
    assert (as_ofs(first), first.backlog) == (DAYS[1:3], 1)
    finish(first)
    second = resolve(scored, at_most=2)
    assert (as_ofs(second), second.backlog) == ([DAYS[3]], 0)


def test_those_that_stay_pending_never_keep_others_from_their_turn(scored):
    evaluate(scored, at_most=10)
    steps.put(scored, values(days=6).filter(pl.col("at") == DAYS[5]))
    steps.score(scored, as_of=DAYS[5])
    assert as_ofs(resolve(scored, at_most=1)) == [DAYS[5]]


def test_moments_are_judged_and_a_day_given_as_the_end_is_the_whole_day(store):
    steps.put(store, hourly_values(hours=26), scenario=HOURLY)
    steps.train(store, as_of=hourly_values()["at"][0], scenario=HOURLY)
    moments = hourly_values(hours=26)["at"].unique().sort().to_list()
    for moment in (moments[1], moments[23], moments[25]):
        steps.score(store, as_of=moment, scenario=HOURLY)
    day = date(2018, 8, 29)
    assert as_ofs(resolve(store, since=day, until=day, scenario=HOURLY)) == [moments[1], moments[23]]
    evaluate(store, scenario=HOURLY)
    assert rows(store)["pending"].sum() == 6
    assert as_ofs(resolve(store, scenario=HOURLY)) == []


def test_the_metrics_are_kept_with_what_they_are_of(scored):
    evaluate(scored)
    measures = scored.scan("toy/measures").collect()
    assert set(measures["first"]) == {DAYS[1]}
    assert set(measures["observed"]) == {DAYS[3]}
    complete_rows = rows(scored).filter(~pl.col("pending"))
    error = (complete_rows["value"] - complete_rows["actual"]).abs().mean()
    assert measures.filter(slice="all", metric="mean_error")["value"].item() == pytest.approx(error)


# control charts


def points(values: list[float], start: int = 0) -> pl.DataFrame:
    lines = [
        ("error", "all", DAYS[0] + timedelta(days=start + n), v * 9, 9.0, 9) for n, v in enumerate(values)
    ]
    tallies = pl.DataFrame(lines, schema=TALLIES, orient="row")
    return control.points(tallies, tallies.clear(), TOY.charts)


CALM = [1.0, 1.1, 0.95, 1.05, 1.0, 1.02]


@pytest.fixture
def emitted(monkeypatch) -> list:
    log: list = []
    monkeypatch.setattr(
        "tasks.monitoring.control_charts.emit",
        lambda store, scenario, event, occasion: log.append((event, occasion)),
    )
    return log


def test_the_control_chart_is_kept_and_is_that_of_the_judged_rows(scored):
    evaluate(scored)
    chart = control_points.fn(TOY, scored)
    complete_rows = rows(scored).filter(~pl.col("pending"))
    by_day = complete_rows.group_by("at").agg(
        value=(pl.col("value") - pl.col("actual")).abs().sum() / pl.col("actual").sum()
    )
    assert chart["period"].to_list() == DAYS[2:4]
    assert chart["value"].to_list() == pytest.approx(by_day.sort("at")["value"].to_list())
    assert points_so_far(scored, "toy").equals(chart)
    version = scored.version("toy/control")
    control_points.fn(TOY, scored)
    assert scored.version("toy/control") == version


def test_the_page_of_the_next_run_shows_it(scored):
    evaluate(scored)
    control_points.fn(TOY, scored)
    run = steps.resolve(scored)
    results = steps.outcomes(run)
    page = write_page.fn(run, results, complete.fn(run, results))
    assert "Accuracy so far" in Path(page).read_text()


def test_a_degraded_point_is_told_once_with_what_was_expected(store, emitted):
    worse = points([*CALM, 5.0])
    payload = announce_degraded.fn(TOY, store, worse, 14)
    ((event, _),) = emitted
    assert (event.name, event.resource, event.payload) == ("degraded", "toy", payload)
    (point,) = payload["points"]
    assert payload["reason"].startswith(f"Degraded in {payload['period']}: error all is 5, expected from ")
    assert payload["store"] == store.uri
    assert (payload["period"], point["value"]) == (str(DAYS[0] + timedelta(days=6)), 5.0)
    assert point["low"] < 1.0 < point["high"] < 5.0
    assert announce_degraded.fn(TOY, store, worse, 14) is None
    assert announce_degraded.fn(TOY, store, worse, 0) is None
    assert len(emitted) == 1
    assert store.scan("toy/degraded").collect().height == 1


def test_within_the_cooldown_no_other_one_is_told(store, emitted):
    assert announce_degraded.fn(TOY, store, points([*CALM, 5.0]), 2)
    assert announce_degraded.fn(TOY, store, points([*CALM, 5.0, 5.0]), 2) is None
    assert announce_degraded.fn(TOY, store, points([*CALM, 5.0, 5.0, 5.0]), 2)
    assert len(emitted) == 2
    assert len({occasion for _, occasion in emitted}) == 2


def test_what_does_as_expected_tells_nothing(store, emitted):
    assert announce_degraded.fn(TOY, store, points(CALM), 14) is None
    assert announce_degraded.fn(TOY, store, points([*CALM, 5.0, 1.0]), 14) is None
    assert emitted == []


# champion and challenger


@pytest.mark.parametrize(
    ("ours", "promoted"), [(0.9, True), (1.0, True), (1.1, False), (float("nan"), False)]
)
def test_a_challenger_that_is_worse_on_real_outcomes_is_refused_however_good_its_backtest(
    scored, ours, promoted
):
    class Compared(Toy):
        def ground_truth_losses(self, backtest, judged_rows, options):
            assert judged_rows.select("bundle", "pending").unique().collect().rows() == [(1, False)]
            assert backtest.select(pl.col("bundle").unique()).collect().item() == 2
            return ours, 1.0, 24

    evaluate(scored)
    _, verdict = steps.train(scored, as_of=DAYS[0], scenario=Compared(), loss=0.5)
    assert verdict.promoted is promoted
    assert "Loss 0.5000 < 1.0000 of champion 1" in verdict.reason
    assert "1.0000 on 24 judged rows that it published" in verdict.reason
    assert bundles.champion(scored, "toy") == (2 if promoted else 1)


def test_what_the_champion_published_of_days_that_it_knew_compares_nobody(store):
    class Compared(Toy):
        def ground_truth_losses(self, backtest, judged_rows, options):
            assert judged_rows.collect()["as_of"].unique().to_list() == [DAYS[2]]

    steps.put(store, values(days=4))
    steps.train(store, as_of=DAYS[1])
    steps.score(store, as_of=DAYS[0], bundle=1)
    steps.score(store, as_of=DAYS[2])
    evaluate(store)
    _, verdict = steps.train(store, as_of=DAYS[1], scenario=Compared(), loss=0.5)
    assert verdict.promoted


# what cannot be


def test_where_nothing_was_published_it_says_so(store):
    steps.put(store)
    with pytest.raises(RunError, match="toy has published nothing yet"):
        resolve(store)


def test_a_range_without_anything_published_is_refused_with_what_there_is(scored):
    with pytest.raises(
        RunError,
        match=r"nothing was published from 2025-01-01 to the last\. There are 3 published times from",
    ):
        resolve(scored, since=date(2025, 1, 1))


def test_a_scenario_without_outcomes_says_so(scored):
    with pytest.raises(
        RunError, match="no table of this scenario has the ground truth of its published rows"
    ):
        resolve(scored, scenario=Plain())
