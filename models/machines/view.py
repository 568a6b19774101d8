"""A run, prepared for the sections of its page."""

from collections.abc import Sequence

import polars as pl

from models.machines.alarms import CLOSED, GOES_ON
from models.machines.options import Options, moment
from models.machines.scoring import KEY, LIFE
from models.scenario import RunView

PLACE = [*KEY, "horizon_hours"]


def _days(name: str, columns: Sequence[str]) -> pl.Expr:
    """A quantile of the remaining life in days; null if an earlier version published the rows."""
    return pl.col(name).first() / 24 if name in columns else pl.lit(None, pl.Float64)


def _thresholds(columns: Sequence[str]) -> pl.Expr:
    """The thresholds of the horizons, shortest first; null if an earlier version published the rows."""
    if "threshold" not in columns:
        return pl.lit(None, pl.String)
    return pl.format("{} %", (pl.col("threshold") * 100).round_sig_figs(2)).str.join(", ")


class View:
    """The run, with data that several sections share."""

    def __init__(self, run: RunView) -> None:
        self.run = run
        self.options = Options.of(run.options)
        self.as_of = moment(run.as_of)
        self.rows = run.published_rows.filter(pl.col("time") == pl.col("time").max()).collect()
        self.horizons: list[int] = sorted(self.rows["horizon_hours"].unique())
        self.status = dict(run.keys.group_by("status").len().collect().iter_rows())

    @property
    def watch_list(self) -> pl.DataFrame:
        """One line per component with a probability; alarms first, those of the shortest horizon at the top."""
        rows = self.rows.filter(pl.col("probability").is_not_null())
        alarm = pl.col("horizon_hours").filter("above_threshold").min()
        reason = pl.coalesce(
            pl.col("reasons").filter("above_threshold").first(), pl.col("reasons").last(), pl.lit("")
        )
        return (
            rows.sort(PLACE)
            .group_by(KEY, maintain_order=True)
            .agg(
                *(
                    pl.col("probability").filter(pl.col("horizon_hours") == h).first().alias(f"within {h}")
                    for h in self.horizons
                ),
                alarm.alias("alarm"),
                reason.alias("why"),
                *(_days(name, rows.columns).alias(name) for name in LIFE[:3]),
                _thresholds(rows.columns).alias("from"),
                (pl.col("rung") == "under_work").any().alias("under work"),
            )
            .filter(~pl.col("under work"))
            .join(self.alarms, on=list(KEY), how="left", maintain_order="left")
            .sort(
                [pl.col("alarm"), *(f"within {h}" for h in self.horizons[::-1]), *KEY],
                descending=[False, *[True] * len(self.horizons), False, False],
                nulls_last=True,
            )
        )

    @property
    def alarms(self) -> pl.DataFrame:
        """The state of each component's alarm in this run, in words; empty if no alarms are kept."""
        nothing = pl.DataFrame(schema={**dict.fromkeys(KEY, pl.String), "state": pl.String})
        if "alarms" not in self.run.derived_tables:
            return nothing
        table = self.run.derived_tables["alarms"].filter(pl.col("as_of") == self.run.as_of).collect()
        since = pl.format("{} since {}", "state", pl.col("since").dt.strftime("%Y-%m-%d %H:%M"))
        reason = pl.format("closed: {}", "why")
        text = pl.when(state=GOES_ON).then(since).when(state=CLOSED).then(reason).otherwise("state")
        first = table.with_columns(text.alias("state")).sort(PLACE).group_by(KEY, maintain_order=True)
        return first.agg(pl.col("state").first()) if table.height else nothing
