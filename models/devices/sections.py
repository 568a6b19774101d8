"""The page of a devices run: what needs attention, when, each device, and how far to trust the verdicts."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl

from models.devices import conversion, states
from models.devices.alarms import alarming
from models.devices.contracts import JOINT_TAG, KEY
from models.devices.incidents import INCIDENTS, incidents, what_happened
from models.devices.kinds import kinds
from models.devices.labelled import precision
from models.devices.options import Options, moment_of
from models.devices.rows import as_scores
from models.devices.scoring import HOUR
from models.page import blocks as page
from models.page.blocks import Band, Block, Chart, Explorer, Figures, Grid, Line, Mark, Section, Text, Track
from models.page.charts import axis, line
from models.scenario import RunView

ATTENTION = 100
TIMELINE_DEVICES = 40
EXPLORER_ROWS = 600_000
"""Approximate limit of this hour's rows in the explorer: devices with incidents come first, then by name."""
PAST = timedelta(hours=6)
FINDINGS = 300
TOGETHER = "all together"
"""The name, on the page, of the joint detector of a device."""
_CURVE = np.round(10.0 ** np.arange(-4.0, -0.9, 0.25), 6)


def sections(run: RunView) -> list[Section]:
    """Attention, timeline, explorer, false alarms and findings; those without data say so."""
    view = _View(run)
    return [
        Section("This hour", _summary(view)),
        Section("Devices that need attention now", _attention(view)),
        Section("Incidents", [*_timeline(view), *_levels(view)]),
        Section("Any device", _explorer(view)),
        Section("False alarms", [*_labelled_alarms(view), *_false_alarms(view)]),
        Section("Detectors", _detectors(view)),
        Section("Silent, flat and without a detector", _findings(view)),
    ]


class _View:
    """The run, with the data that several sections share."""

    def __init__(self, run: RunView) -> None:
        self.run = run
        self.options = Options.of(run.options)
        self.until = moment_of(run.as_of)
        self.rows = as_scores(run.published_rows)
        self.counts = self.rows.select(
            pl.col("device").n_unique().alias("devices"),
            (pl.col("tag") != JOINT_TAG).sum().alias("readings"),
            pl.col("is_anomaly").sum().alias("anomalies"),
        )
        self.incidents = self._incidents().filter("is_alarm")

    def _incidents(self) -> pl.DataFrame:
        if "incidents" in self.run.derived_tables:
            current = self.run.derived_tables["incidents"].filter(pl.col("as_of") == self.run.as_of)
            return current.select(list(INCIDENTS)).collect()
        anomalies = self.rows.filter("is_anomaly").collect(engine="streaming")
        return incidents(
            anomalies, None, self.until, self.options.step, alarming(self.rows, self.options.alarms_per_day)
        )

    @property
    def current(self) -> pl.DataFrame:
        """Alarms with an anomaly in this hour, lowest p-value first."""
        now = self.incidents.filter(pl.col("end") > self.until - HOUR)
        return now.sort("p_value", "score", "device", "start", descending=[False, True, False, False])


def _summary(view: _View) -> list[Block]:
    counts = view.counts.collect(engine="streaming").row(0, named=True)
    status = dict(view.run.keys.group_by("status").len().collect().iter_rows())
    rate = view.run.headline.get(f"alarm_rate_at_{view.options.alpha:g}")
    new = view.incidents["is_new_alarm"].sum()
    figures = {
        "Devices that need attention": f"{view.current['device'].n_unique():,} of {counts['devices']:,}",
        "New alarms": f"{new:,}",
        "Readings scored": f"{counts['readings']:,}",
        "Called anomalies": f"{counts['anomalies']:,}",
        "Detectors": f"{status.get('scored', 0):,}",
        "By a fallback": f"{status.get('fallback', 0):,}",
        "Sensitivity, alpha": f"{view.options.alpha:g}",
    }
    if rate is not None:
        figures["Backtest: share called outside known faults"] = f"{rate:.2%}"
    if status.get("failed") or status.get("skipped"):
        figures["Skipped or failed"] = f"{status.get('failed', 0) + status.get('skipped', 0):,}"
    text = (
        f"The hour up to **{view.until:%Y-%m-%d %H:%M} UTC**. A reading is called an anomaly if its p-value is at "
        "most alpha; this is so for about that share of normal readings. Higher scores are more anomalous; they are "
        "comparable for one sensor, p-values for all. Anomalies of a device that begin together are one "
        "incident; incidents within the alarm budget are alarms."
    )
    return [Figures(figures), Text(text)]


def _attention(view: _View) -> list[Block]:
    current = view.current
    if current.is_empty():
        return [Text("None. No device has an alarm in this hour.")]
    frame = current.with_columns(what_happened()).select(
        pl.col("device").alias("Device"),
        pl.col("tag").replace(JOINT_TAG, TOGETHER).alias("Sensor"),
        pl.col("what").alias("What is not normal about it"),
        pl.col("tags").list.join(", ").str.replace(JOINT_TAG, TOGETHER, literal=True).alias("All sensors"),
        pl.col("start").dt.strftime("%m-%d %H:%M").alias("Since"),
        pl.col("peak_time").dt.strftime("%m-%d %H:%M").alias("Peak"),
        pl.col("p_value").alias("p-value"),
        pl.col("anomalies").alias("Anomalies"),
        pl.when("is_new_alarm").then(pl.lit("new")).otherwise(pl.lit("goes on")).alias("Alarm"),
    )
    caption = "Alarms with an anomaly in this hour, least likely by chance first; open one in the explorer"
    formats = {"p-value": ".1e"}
    return [Grid(frame, caption, limit=ATTENTION, formats=formats, key={"device": "Device"})]


def _timeline(view: _View) -> list[Block]:
    """One line per incident, for the devices with the lowest p-values."""
    if view.incidents.is_empty():
        return [Text("No alarm is open.")]
    worst = view.incidents.sort("p_value", "device").unique("device", keep="first", maintain_order=True)
    devices = worst["device"].head(TIMELINE_DEVICES).to_list()
    bars = view.incidents.filter(pl.col("device").is_in(devices)).with_columns(what_happened())
    data = []
    for name, now, colour in (
        ("Alarm of this hour", True, page.ALERT),
        ("Earlier, still open", False, page.MUTED),
    ):
        x: list[Any] = []
        y: list[Any] = []
        text: list[Any] = []
        recent = pl.col("end") > view.until - HOUR
        for row in bars.filter(recent if now else ~recent).iter_rows(named=True):
            label = f"{row['device']} {row['tag']}: {row['what']}"
            x += [row["start"].isoformat(), row["end"].isoformat(), None]
            y += [row["device"], row["device"], None]
            text += [label, label, None]
        if x:
            data.append(line(name, x, y, colour, width=9) | {"text": text})
    height = 140 + 18 * len(devices)
    order = {"type": "category", "categoryorder": "array", "categoryarray": devices[::-1], "automargin": True}
    layout = {"height": height, "yaxis": order, "hovermode": "closest", "xaxis": {"type": "date"}}
    more = worst.height - len(devices)
    caption = "From the first to the last anomaly of each open incident" + (
        f"; {more:,} further devices are not drawn" if more > 0 else ""
    )
    return [Chart({"data": data, "layout": layout}, caption)]


def _explorer(view: _View) -> list[Block]:
    sample, total = _shown_devices(view)
    if sample.is_empty():
        return [Text("There is nothing to show: no reading was scored.")]
    devices = sample.lazy().select("device")
    discrete = view.run.files.get("discrete")
    places = states.states_of(discrete if isinstance(discrete, pl.DataFrame) else None)
    about = view.run.keys.join(devices, on="device", how="semi")
    about = about.join(states.legend(places).lazy(), on=list(KEY), how="left").select(
        "device",
        _panel(),
        pl.col("rung").str.replace_all("_", " ").alias("Detector"),
        pl.concat_str("states", "reason", separator="; ", ignore_nulls=True).replace("", None).alias("Note"),
    )
    start = {"device": view.current["device"][0]} if view.current.height else {}
    caption = (
        f"{sample.height:,} of {total:,} devices: all with an alarm in this hour and the first of the others. "
        if sample.height < total
        else ""
    ) + (
        f"The panel '{TOGETHER}' shows how far the sensors depart from their usual relations. Inside its band, a "
        "single reading is normal; slow changes and changes of spread can be anomalies even there."
    )
    explorer = Explorer(
        key={"device": "Device", "tag": "Sensor"},
        time="time",
        tracks=_tracks(view, devices, places),
        panels="tag",
        order=[TOGETHER],
        start=start,
        about=about,
        recent=3 * int(HOUR / view.options.step),
        caption=caption,
    )
    return [explorer]


def _tracks(view: _View, devices: pl.LazyFrame, places: pl.DataFrame) -> list[Track]:
    """The readings of this hour and, if the run has them, those before it; states by their `places`."""
    rows = view.rows.join(devices, on="device", how="semi")
    rows = states.as_places(rows, ("value", "expected", "low", "high"), places).with_columns(_panel())
    tracks = [
        Track(
            rows,
            actual=Line("value", "Reading"),
            expected=Line("expected", "Expected"),
            bands=[Band("low", "high", "Normal")],
            marks=[Mark("is_anomaly", "Anomaly", page.ALERT)],
        )
    ]
    if "readings" in view.run.tables:
        past = states.as_places(_past(view, devices), ("past",), places)
        tracks.insert(0, Track(past, actual=Line("past", "Reading before this hour", page.MUTED)))
    return tracks


def _panel() -> pl.Expr:
    return pl.col("tag").replace(JOINT_TAG, TOGETHER)


def _shown_devices(view: _View) -> tuple[pl.DataFrame, int]:
    """Devices in the explorer, and how many there are; those with alarms come first."""
    sizes = view.rows.group_by("device").len().sort("device").collect(engine="streaming")
    has_alarm = pl.col("device").is_in(view.current["device"].to_list())
    in_order = sizes.sort(has_alarm, "device", descending=[True, False])
    return in_order.filter(pl.col("len").cum_sum() <= EXPLORER_ROWS), sizes.height


def _past(view: _View, devices: pl.LazyFrame) -> pl.LazyFrame:
    time, begin = pl.col("time"), view.until - HOUR
    past = view.run.tables["readings"].filter(time >= begin - PAST, time < begin)
    columns = [c for c in (*KEY, "time", "shard") if c in past.collect_schema()]
    readings = past.join(devices, on="device", how="semi").select(*columns, pl.col("mean").alias("past"))
    sensors = view.run.files.get("sensors")
    if not isinstance(sensors, pl.DataFrame):
        return readings
    return conversion.of_readings(readings, sensors, "past", view.options.step)


def _false_alarms(view: _View) -> list[Block]:
    backtest = view.run.backtest.select("rung", "injected", "p_value").collect(engine="streaming")
    normal = backtest.filter(~pl.col("injected"))["p_value"].to_numpy()
    if not len(normal):
        return [Text("The bundle has no backtest: its history was too short to hold out any of it.")]
    metrics = view.run.metrics.filter(pl.col("slice").is_in(["all", "rung"]))
    table = metrics.pivot("metric", index="value_of_slice", values="value", aggregate_function="first")
    names = {"value_of_slice": "Detector", "readings": "Readings"}
    for alpha in ("0.01", "0.001"):
        names |= {f"alarm_rate_at_{alpha}": f"Called at {alpha}", f"missed_at_{alpha}": f"Missed at {alpha}"}
    rates = table.select(pl.col(c).alias(label) for c, label in names.items() if c in table.columns)
    rates = rates.with_columns(pl.col("Detector").replace("all", "All").str.replace_all("_", " "))
    formats = {label: ".2%" if "Called" in label else ".1%" for label in rates.columns[2:]} | {
        "Readings": ",.0f"
    }
    text = (
        "Detectors were trained without the last hours of the history and then scored them. Few of these readings are "
        "faults, so the share that is **called** an anomaly should be about alpha. In a copy every tenth reading was "
        "moved by four short-term standard deviations: **missed** is the share of these that was not called."
    )
    return [Text(text), Grid(rates, "In the backtest, by detector", formats=formats), _rates(normal)]


def _levels(view: _View) -> list[Block]:
    """Sensors whose lasting change has become normal."""
    if "levels" not in view.run.derived_tables:
        return []
    current = view.run.derived_tables["levels"].filter(
        pl.col("as_of") == view.run.as_of, pl.col("last") == view.until
    )
    rows = current.sort("since", *KEY, descending=[True, False, False]).collect()
    if rows.is_empty():
        return []
    frame = rows.select(
        pl.col("device").alias("Device"),
        pl.col("tag").replace(JOINT_TAG, TOGETHER).alias("Sensor"),
        pl.col("since").dt.strftime("new level since %Y-%m-%d %H:%M").alias("Level"),
        pl.when("is_new").then(pl.lit("new")).otherwise(pl.lit("reported before")).alias("Reported"),
    )
    caption = "Sensors whose lasting change has become normal; their incidents are over"
    return [Grid(frame, caption, limit=FINDINGS, key={"device": "Device"})]


def _labelled_alarms(view: _View) -> list[Block]:
    """How many of the alarms that have a label were faults."""
    if "incidents" not in view.run.derived_tables:
        return []
    table = precision(view.run.derived_tables["incidents"], view.run.tables, view.until)
    if table.is_empty() or not table["labelled"][0]:
        return [Text("No alarm of the last 30 days has a label. Label alarms with `devices label`.")]
    names = {"tag": "Sensor", "alarms": "Alarms", "labelled": "With a label", "fault": "Faults"}
    names |= {"false_alarm": "False alarms", "new_normal": "New normal", "precision": "Precision"}
    rows = table.filter(pl.col("labelled") > 0).select(pl.col(c).alias(label) for c, label in names.items())
    rows = rows.with_columns(pl.col("Sensor").replace(JOINT_TAG, TOGETHER))
    caption = "Alarms of the last 30 days, by the verdicts of people and the labels of known faults"
    return [Grid(rows, caption, limit=FINDINGS, formats={"Precision": ".0%"})]


def _detectors(view: _View) -> list[Block]:
    """The kind of each sensor of this hour, and the reason for its detector."""
    frames = {name: file for name, file in view.run.files.items() if isinstance(file, pl.DataFrame)}
    settings = view.run.files.get("settings")
    if "sensors" not in frames or not isinstance(settings, Mapping):
        return [Text("The bundle has no data about its sensors.")]
    here = view.run.keys.select(KEY).filter(pl.col("tag") != JOINT_TAG).collect()
    sensors = kinds(frames, settings).join(here, on=list(KEY), how="semi", maintain_order="left")
    counts = sensors.group_by("kind").len("n").sort("n", "kind", descending=[True, False])
    summary = ", ".join(f"{n:,} {kind}" for kind, n in counts.iter_rows())
    rare = sensors.join(counts, on="kind").sort("n", "kind", *KEY)
    frame = rare.select(
        pl.col("device").alias("Device"),
        pl.col("tag").alias("Sensor"),
        pl.col("kind").alias("Kind"),
        pl.col("reason").alias("Why"),
        pl.col("rung").str.replace_all("_", " ").alias("Detector"),
        pl.col("readings").alias("Readings learnt from"),
    )
    caption = "Sensors in the bundle, rarest kinds first"
    grid = Grid(frame, caption, limit=FINDINGS, key={"device": "Device", "tag": "Sensor"})
    return (
        [Text(f"{sensors.height:,} sensors: {summary}."), grid]
        if sensors.height
        else [Text("The bundle contains none of the sensors.")]
    )


def _rates(p_values: np.ndarray) -> Chart:
    share = [float((p_values <= alpha).mean()) for alpha in _CURVE]
    points = [(float(a), s) for a, s in zip(_CURVE, share, strict=True) if s > 0]
    x, y = zip(*points, strict=True) if points else ((), ())
    data = [
        line("Promised", _CURVE, _CURVE, page.MUTED, "dash", width=1.5),
        line("In the backtest", x, y, page.ACCENT, width=2) | {"mode": "lines+markers"},
    ]
    layout = {
        "xaxis": axis("alpha", type="log", tickformat=".2~%"),
        "yaxis": axis("Share of readings called anomalies", type="log", tickformat=".2~%"),
    }
    return Chart({"data": data, "layout": layout}, "The share of readings called at each alpha")


def _findings(view: _View) -> list[Block]:
    notes = view.run.keys.filter(pl.col("reason").is_not_null(), pl.col("tag") != JOINT_TAG)
    frame = notes.select(
        pl.col("device").alias("Device"),
        pl.col("tag").alias("Sensor"),
        pl.col("status").str.to_titlecase().alias("Outcome"),
        pl.col("rung").fill_null("–").str.replace_all("_", " ").alias("Detector"),
        pl.col("reason").alias("Finding"),
    ).collect()
    if frame.is_empty():
        return [Text("None: every sensor sends readings that vary as usual, and has a detector.")]
    kind = pl.col("Finding").str.extract(r"^(silent|flat|new)").fill_null("other")
    counts = dict(frame.group_by(kind).len().sort("Finding").iter_rows())
    summary = ", ".join(f"{n:,} {name}" for name, n in counts.items())
    rows = frame.sort(kind.replace({"silent": "0", "flat": "1", "new": "2"}), "Device", "Sensor")
    return [
        Text(f"{frame.height:,} sensors: {summary}."),
        Grid(rows, "Sensors with a finding", limit=FINDINGS, key={"device": "Device", "tag": "Sensor"}),
    ]
