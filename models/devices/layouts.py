"""How the files of other products hold readings: retired services of Azure and Amazon, IoT Hub, InfluxDB, Home Assistant."""

import re
from collections.abc import Sequence

import polars as pl

from models.contracts import flags, without_unknown
from models.errors import ContractError
from models.layouts import (
    TIMES,
    Layout,
    LayoutRequest,
    SourceFile,
    has_tags,
    time_and_others,
    time_and_tags,
    with_header,
)

_VALUES = ("value", "metric_value")
_POINT = (*TIMES, *_VALUES)
_RANGE = ("start", "end")
LABELS = (
    r"(?i)(is_?)?(anomal(y|ous)|outlier|attack|label|normal/attack|change_?point|ground_?truth)(_?label)?"
)
"""Matches the names of columns that say which rows of a wide file are anomalous."""
_NORMAL = ("normal", "ok", "good")
_NO_STATE = ("unavailable", "unknown", "none", "")


def _of_its_file(files: Sequence[SourceFile], _: LayoutRequest) -> list[SourceFile]:
    """One series per file: a list of points, or a CSV with a time and a value; the file's name is the device."""
    return [
        SourceFile(p.name, p.frame.with_columns(device=pl.lit(p.stem)))
        for p in (with_header(file, ("timestamp", "value")) for file in files)
    ]


def _variables(files: Sequence[SourceFile], request: LayoutRequest) -> list[SourceFile]:
    """A column per variable or, in a folder or zip archive, a file per variable, named after it; the source is named
    after the device."""
    result = []
    for file in (with_header(one, ("timestamp", "value")) for one in files):
        (time, values) = time_and_others(file, request)
        device = pl.lit(request.source).alias("device")
        if len(values) == 1 and (len(files) > 1 or values[0] in _VALUES):
            columns = [pl.lit(file.stem).alias("tag"), pl.col(values[0]).alias("value")]
            result.append(
                SourceFile(file.name, file.frame.select(device, pl.col(time).alias("time"), *columns))
            )
        else:
            result.append(SourceFile(file.name, _long(file, time, values).with_columns(device)))
    return result


def _components(files: Sequence[SourceFile], request: LayoutRequest) -> list[SourceFile]:
    """An asset's folder with a file or a folder per component, whose tags are `component.sensor`; label ranges."""
    if request.table == "labels":
        return _label_ranges(files, request)
    result = []
    for file in files:
        time, sensors = time_and_others(file, request)
        alone = len(files) == 1 and file.folder is None
        tag = pl.format("{}{}", pl.lit("" if alone else f"{file.folder or file.stem}."), "tag")
        long = _long(file, time, sensors)
        result.append(SourceFile(file.name, long.with_columns(tag=tag, device=pl.lit(request.source))))
    return result


def _tags(files: Sequence[SourceFile], request: LayoutRequest) -> list[SourceFile]:
    """A column per device and sensor, named after both."""
    result = []
    for file in files:
        time, tags = time_and_tags(file, request)
        device, sensor = (
            pl.col("tag").replace_strict({name: pair[at] for name, pair in tags.items()}) for at in (0, 1)
        )
        long = _long(file, time, [*tags]).with_columns(device.alias("device"), sensor.alias("tag"))
        result.append(SourceFile(file.name, long))
    return result


def _label_ranges(files: Sequence[SourceFile], request: LayoutRequest) -> list[SourceFile]:
    if "readings" not in request.sources and "device" not in request.mapping:
        raise ContractError(
            "labels: ranges of AWS Lookout for Equipment do not name their asset. Expected --labels together with "
            "--source, which is named after the asset."
        )
    defaults = {"device": pl.lit(request.sources.get("readings")), "fault": pl.lit("fault")}
    ranges = [with_header(file, _RANGE) for file in files]
    return [
        SourceFile(
            p.name, p.frame.with_columns(v.alias(c) for c, v in defaults.items() if c not in p.columns)
        )
        for p in ranges
    ]


def _labelled(files: Sequence[SourceFile], request: LayoutRequest) -> list[SourceFile]:
    """A column per sensor, and one that says which rows are anomalous: the readings without it; as labels, its ranges.

    The device is a column, or the name of the file. A fault ends at the next row that is normal.
    """
    result = []
    for file in files:
        time, others = time_and_others(file, request)
        labels = [c for c in others if re.fullmatch(LABELS, c)]
        device = next((c for c in (request.mapping.get("device"), "device") if c in others), None)
        frame = file.frame.with_columns(device=pl.col(device) if device else pl.lit(file.stem))
        if request.table == "labels":
            if not labels:
                raise ContractError(
                    f"{file.name}: no column says which rows are anomalous. Found: {', '.join(others)}. Expected one such "
                    "as anomaly or label."
                )
            ranges = _ranges(
                frame.select("device", time, pl.col(labels[0]).cast(pl.String)).collect(), file.name
            )
            result.append(SourceFile(file.name, ranges.lazy()))
        else:
            sensors = [c for c in others if c not in (*labels, device)]
            result.append(
                SourceFile(file.name, _long(SourceFile(file.name, frame), time, sensors, ["device"]))
            )
    return result


def _ranges(rows: pl.DataFrame, name: str) -> pl.DataFrame:
    """Each run of anomalous `rows` of a device as a fault, from its first row to the first one after it or, at the end
    of the rows, to its last. The columns are the device, the time and a flag or word.

    Raises `ContractError` for numbers other than 0 and 1.
    """
    _, time, flag = rows.columns
    word = pl.col(flag).str.strip_chars().str.to_lowercase().fill_null("0")
    number = flags(word)
    others = rows.filter(number.is_in([0.0, 1.0]).not_())
    if others.height:
        raise ContractError(
            f"{name}: '{flag}' is {others[flag][0]}. Expected 0 or 1, or words such as normal and attack."
        )
    is_normal = (number == 0.0) | word.is_in(_NORMAL)
    fault = pl.when(number == 1.0).then(pl.lit("anomaly")).when(~is_normal.fill_null(value=False)).then(word)
    runs = rows.with_columns(
        fault=fault, start=time, end=pl.coalesce(pl.col(time).shift(-1).over("device"), time)
    ).with_columns(run=pl.col("fault").rle_id().over("device"))
    ranges = runs.drop_nulls("fault").group_by("device", "fault", "run", maintain_order=True)
    return (
        ranges.agg(pl.col("start").first(), pl.col("end").last())
        .filter(pl.col("start") != pl.col("end"))
        .drop("run")
    )


def _dimensions(files: Sequence[SourceFile], request: LayoutRequest) -> list[SourceFile]:
    """Rows with a time, dimensions and measures: text columns are dimensions, numbers are measures.

    A column of numbers that the user maps to the device is a further dimension, a column of text the only one.
    """
    result = []
    for file in files:
        time, others = time_and_others(file, request)
        numbers, own = _numeric(file, others), request.mapping.get("device", "device")
        dimensions = [c for c in others if c not in numbers or c == own]
        measures = [c for c in others if c not in dimensions]
        if not measures:
            raise ContractError(
                f"{file.name}: no column holds only numbers. Found: {', '.join(others)}. Expected at least one measure."
            )
        names = dimensions if own in numbers else [c for c in dimensions if c == own] or dimensions
        rows = file.frame.unique().select(time, *names)
        several = rows.filter(pl.struct(time, *names).is_duplicated()).head(1).collect()
        if several.height:
            raise ContractError(
                f"{file.name}: several rows have {' '.join(map(str, several.row(0)))} in {', '.join((time, *names))}. "
                "Expected one row for each time and device. If a column of numbers is a dimension as well, name it, for "
                f"example with --column 'device={measures[0]}'."
            )
        long = _long(file, time, measures, dimensions)
        texts = [pl.col(c).cast(pl.String).fill_null("-") for c in names]
        device = pl.concat_str(texts, separator="/") if texts else pl.lit(file.stem)
        result.append(SourceFile(file.name, long.with_columns(device.alias(own))))
    return result


def _influx(files: Sequence[SourceFile], request: LayoutRequest) -> list[SourceFile]:
    """Tags other than InfluxDB's own name the device; the tag is `measurement.field`.

    Pivoted rows have a column per field: all columns of numbers or flags, unless one is mapped to the device.
    """
    result = []
    for file in files:
        columns = file.columns
        own_columns = ("result", "table", "", *TIMES)
        keys = sorted(c for c in columns if not c.startswith("_") and c not in own_columns)
        if not {"_value", "value"} & {*columns}:
            numbers = _numeric(file, keys, ("true", "false")) - {request.mapping.get("device")}
            fields, keys = [k for k in keys if k in numbers], [k for k in keys if k not in numbers]
            index = [*keys, *(c for c in columns if c.startswith("_") or c in TIMES)]
            long = file.frame.unpivot(fields, index=index, variable_name="_field", value_name="_value")
            file, columns = SourceFile(file.name, long.drop_nulls("_value")), [*index, "_field", "_value"]
        own = [pl.col(c).cast(pl.String) for c in ("_measurement", "_field") if c in columns]
        names = [pl.col(c).cast(pl.String) for c in keys]
        path = pl.concat_str(names or [pl.lit("")], separator="/", ignore_nulls=True)
        device = (
            pl.when(path == "").then(own[0] if own else pl.lit(file.stem)).otherwise(path).alias("device")
        )
        tag = (pl.concat_str(own, separator=".") if own else pl.lit("value")).alias("tag")
        result.append(SourceFile(file.name, file.frame.with_columns(device, tag)))
    return result


def _states(files: Sequence[SourceFile], _: LayoutRequest) -> list[SourceFile]:
    """States of entities; the states of an unavailable entity are not readings.

    A minimal response names the entity only with its first state.
    """
    is_state = ~pl.col("state").cast(pl.String).str.to_lowercase().is_in(_NO_STATE)
    entity = pl.col("^entity_id$").forward_fill()
    return [
        SourceFile(p.name, p.frame.with_columns(entity).filter(is_state)) if "state" in p.columns else p
        for p in files
    ]


def _numeric(file: SourceFile, columns: Sequence[str], words: Sequence[str] = ()) -> set[str]:
    """The columns that hold only numbers or these `words`, in lower case."""
    text = pl.col(columns).cast(pl.String).str.strip_chars()
    numbers = (
        text.cast(pl.Float64, strict=False).is_not_null()
        | text.is_null()
        | text.str.to_lowercase().is_in(["", *words])
    )
    numeric = file.frame.select(numbers.all()).collect().row(0, named=True)
    return {column for column in columns if numeric[column]}


def _long(file: SourceFile, time: str, values: Sequence[str], index: Sequence[str] = ()) -> pl.LazyFrame:
    """A row (`time`, `tag`, `value`) for each known cell of the columns `values`."""
    same = file.frame.with_columns(pl.col(values).cast(pl.String) if _mixed(file, values) else pl.col(values))
    long = without_unknown(same, values).unpivot(
        values, index=[time, *index], variable_name="tag", value_name="value"
    )
    return long.rename({time: "time"}).filter(pl.col("value").is_not_null())


def _mixed(file: SourceFile, values: Sequence[str]) -> bool:
    schema = file.frame.select(values).collect_schema()
    return len({*schema.dtypes()}) > 1 and not all(d.is_numeric() for d in schema.dtypes())


LAYOUTS = {
    "anomaly-detector": Layout(
        "Azure Anomaly Detector, a file per series: the JSON of a request, or a CSV of timestamp and value; the file's "
        "name is the device",
        {"time": TIMES, "value": _VALUES},
        {"tag": "value"},
        _of_its_file,
    ),
    "anomaly-detector-multivariate": Layout(
        "Azure Anomaly Detector, multivariate: a CSV with a column per variable, or a folder or zip with a CSV of "
        "timestamp and value per variable; the name of the source is the device",
        arrange=_variables,
        names=_POINT,
    ),
    "metrics-advisor": Layout(
        "Metrics Advisor and Lookout for Metrics: a time, dimensions (text) and measures (numbers); the values of the "
        "dimensions name the device, and each measure is a tag",
        arrange=_dimensions,
        names=TIMES,
    ),
    "lookout-equipment": Layout(
        "AWS Lookout for Equipment: an asset's folder with a CSV or folder per component, and label ranges (start, end); "
        "the folder's name is the device, and tags are component.sensor",
        arrange=_components,
        names=(*TIMES, *_RANGE),
    ),
    "device-tag": Layout(
        "A column per device and sensor, such as P-101.temperature: a time, and the readings of both",
        arrange=_tags,
        names=TIMES,
        recognises=has_tags,
    ),
    "iot-hub": Layout(
        "Azure IoT Hub: routed messages in Avro or JSON lines; the hub names the device, and each number in a body "
        "is a tag",
        {"device": ("SystemProperties.connectionDeviceId",)},
    ),
    "labelled": Layout(
        "A column per sensor, and one such as anomaly or label that says which rows are anomalous: it is left out of the "
        "readings; the same files as --labels give the faults; the file's name is the device if no column is",
        arrange=_labelled,
        names=TIMES,
    ),
    "influxdb": Layout(
        "InfluxDB: annotated CSV, pivoted or not, and line protocol; the values of its tags name the device, and "
        "measurement.field is the tag",
        {"time": ("_time", *TIMES), "value": ("_value",)},
        arrange=_influx,
    ),
    "home-assistant": Layout(
        "Home Assistant history: entity_id, state, last_changed; the states unavailable and unknown are not readings",
        {"device": ("entity_id",), "value": ("state",), "time": ("last_changed", "last_updated")},
        {"tag": "state"},
        _states,
    ),
}
