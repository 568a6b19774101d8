"""States that devices send as words, converted to numbers that a page can draw: 0, 1 and so on."""

from collections.abc import Sequence

import polars as pl

from models.devices import words
from models.devices.contracts import KEY


def states_of(discrete: pl.DataFrame | None) -> pl.DataFrame:
    """The states of sensors that have words, by the bundle's `discrete`: device, tag, value, and `place` from 0 on."""
    if discrete is None:
        return pl.DataFrame(
            schema=[(c, pl.String) for c in KEY] + [("value", pl.Float64), ("place", pl.Float64)]
        )
    values = discrete.select(*KEY, pl.col("values").arr.to_list().alias("value")).explode("value")
    values = values.filter(pl.col("value").is_not_nan())
    with_words = values.filter((pl.col("value").max() >= words.LEAST).over(KEY))
    return with_words.with_columns((pl.col("value").rank("dense").over(KEY) - 1.0).alias("place"))


def as_places(rows: pl.LazyFrame, columns: Sequence[str], states: pl.DataFrame) -> pl.LazyFrame:
    """`rows` (device, tag) with the states in `columns` as their places in `states_of`; any other word is the next place."""
    if states.is_empty():
        return rows
    count = states.group_by(KEY).agg(states=pl.len().cast(pl.Float64)).lazy()
    rows = rows.join(count, on=list(KEY), how="left", maintain_order="left")
    for name in columns:
        by_value = states.lazy().rename({"value": name})
        place = pl.when(pl.col(name) >= words.LEAST).then("states").otherwise(name)
        both = rows.join(by_value, on=[*KEY, name], how="left", maintain_order="left")
        rows = both.with_columns(pl.coalesce("place", place).alias(name)).drop("place")
    return rows.drop("states")


def legend(states: pl.DataFrame) -> pl.DataFrame:
    """The meaning of the places of `states_of`, in words: device, tag, `states`."""
    flag = pl.when(value=1.0).then(pl.lit("on")).when(value=0.0).then(pl.lit("off"))
    word = flag.otherwise(words.shown("value"))
    each = pl.format("{} {}", pl.col("place").cast(pl.Int64), word)
    text = pl.format("{}, {} any other", each.str.join(", "), pl.len())
    return states.sort(*KEY, "place").group_by(KEY, maintain_order=True).agg(text.alias("states"))
