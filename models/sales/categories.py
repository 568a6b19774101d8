"""Columns of words, such as the kind of a promotion: each category except the usual one becomes a flag.

Surrounding spaces and case do not matter; an empty cell, or a word such as `none`, is not a category. The most frequent
category is the usual one, which has no flag; a category that a bundle has not learnt counts as the usual one.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import date

import polars as pl

from models.contracts import UNKNOWN
from models.sales.names import suggestion
from models.sales.panel import KEY, NOT_COVARIATES
from models.scenario import Frames

MOST_CATEGORIES = 20
"""A column with more different words is free text; if a table has collected more, only the most frequent ones count."""
BETWEEN = "="
"""Separates the column from its category in the name of a flag."""
USUAL_SHARE = 0.25
"""Least share of the weeks without a flag; below it, no category is usual."""
VARYING_SHARE = 0.05
"""Least share of the keys whose weeks differ; below it, the column is an attribute of the SKU or the store."""
FLAG, USUAL, CONSTANT, VARIED, RARE = "flag", "usual", "constant", "varied", "rare"
_NO_NAME = r'[\s",:\[\]{}=]+'
"""Characters that names of features cannot have."""


def text_columns(schema: Mapping[str, pl.DataType]) -> list[str]:
    """Names of the text columns of a history or plan other than the key, sorted."""
    return sorted(name for name, kind in schema.items() if name not in NOT_COVARIATES and kind == pl.String)


def column_of(name: str) -> str:
    """The column from which a covariate is derived: the column of words for a flag, else the covariate itself.

    >>> column_of("promotion=two_for_one"), column_of("price")
    ('promotion', 'price')
    """
    return name.rpartition(BETWEEN)[0] or name


def category(column: str) -> pl.Expr:
    """The category of each row, in lower case; null for none."""
    word = pl.col(column).str.strip_chars().str.to_lowercase()
    return pl.when(~word.is_in(UNKNOWN)).then(word.str.replace_all(_NO_NAME, "_")).alias(column)


def nothing() -> pl.DataFrame:
    """No categories, in the shape of `of_history`."""
    return pl.DataFrame(schema=dict.fromkeys(("column", "category", "name", "use"), pl.String))


def of_history(tables: Frames, as_of: date) -> pl.DataFrame:
    """The categories of the history up to `as_of`: column, category, name (of the flag) and `use`.

    `use` is `flag`; `usual` for the most frequent category; `constant` if the column is the same in all weeks of nearly
    every key; `varied` if less than `USUAL_SHARE` of the weeks would have no flag; `rare` for categories beyond the
    `MOST_CATEGORIES` most frequent ones.
    """
    past = tables["history"].filter(pl.col("week") <= as_of)
    every = [nothing()]
    for column in text_columns(past.collect_schema()):
        words = past.select(*KEY, category(column).alias("category"))
        count = words.group_by("category").len("weeks").sort(pl.col("weeks"), "category", descending=True)
        differ = words.group_by(KEY).agg(pl.col("category").n_unique() > 1).select(pl.col("category").mean())
        counts, varying_share = pl.collect_all([count, differ], engine="streaming")
        use = _use(counts, varying_share.item() or 0.0)
        name = pl.format("{}{}{}", pl.lit(column), pl.lit(BETWEEN), "category")
        rows = counts.select(pl.lit(column).alias("column"), "category", name.alias("name"), use)
        every.append(rows.drop_nulls("category"))
    return pl.concat(every)


def _use(counts: pl.DataFrame, varying_share: float) -> pl.Expr:
    """`use` of the categories of a column, sorted with the most frequent one (possibly "no category") first."""
    usual = int(counts.filter((pl.int_range(pl.len()) == 0) | pl.col("category").is_null())["weeks"].sum())
    if varying_share < VARYING_SHARE:
        return pl.lit(CONSTANT).alias("use")
    if usual < USUAL_SHARE * int(counts["weeks"].sum()):
        return pl.lit(VARIED).alias("use")
    at = pl.int_range(pl.len())
    use = pl.when(at == 0).then(pl.lit(USUAL)).when(at > MOST_CATEGORIES).then(pl.lit(RARE))
    return use.otherwise(pl.lit(FLAG)).alias("use")


def with_flags(tables: Frames, names: Iterable[str]) -> Frames:
    """The tables with the flags among the covariates `names` as columns of history and plan.

    Flags are 1 or 0; a table without the column of words gets no flags from it.
    """
    result = dict(tables)
    for table in ("history", "plan"):
        schema = result[table].collect_schema() if table in result else {}
        flags = [
            (category(column_of(name)) == name.rpartition(BETWEEN)[2]).fill_null(value=False)
            .cast(pl.Float64)
            .alias(name)
            for name in names
            if name not in schema and schema.get(column_of(name)) == pl.String
        ]  # fmt: skip
        if flags:
            result[table] = result[table].with_columns(flags)
    return result


def flagged(tables: Frames, as_of: date) -> Frames:
    """The tables with the flags that are learnt from the history up to `as_of`."""
    return with_flags(tables, of_history(tables, as_of).filter(use=FLAG)["name"])


def notes(plan: pl.LazyFrame | None, every: pl.DataFrame, as_of: date) -> list[str]:
    """Notes on columns of words that forecasts do not use and why, and on words of the `plan` that are not in `every`."""
    why = {
        CONSTANT: "is not used in forecasts: it is the same in all weeks of nearly every SKU and store. Provide it as "
        "an attribute with sales ingest --skus or --stores",
        VARIED: "is not used in forecasts: none of its words is usual. Less than "
        f"{USUAL_SHARE:.0%} of the weeks have no word, or have the most frequent one",
        RARE: f"has more than {MOST_CATEGORIES} different words. The most frequent ones are used; all others count as none",
    }
    uses = every.select("column", "use").unique().sort("column", "use").iter_rows()
    lines = [f"Column '{column}' of the history {why[use]}." for column, use in uses if use in why]
    return [*lines, *unknown(plan, every, as_of)]


def not_learnt(plan: pl.LazyFrame, every: pl.DataFrame) -> pl.DataFrame:
    """sku, store and `words`, a text, for keys whose plan has categories that are not in `every`, the learnt ones."""
    frames = [pl.LazyFrame(schema=dict.fromkeys((*KEY, "words"), pl.String))]
    for column, _, rows in _strange(plan, every):
        message = pl.format(
            "'{}' in column '{}' was not seen in training and counts as none", column, pl.lit(column)
        )
        frames.append(rows.select(*KEY, words=message))
    return pl.concat(frames).group_by(KEY).agg(pl.col("words").unique().sort().str.join("; ")).collect()


def unknown(plan: pl.LazyFrame | None, every: pl.DataFrame, as_of: date) -> list[str]:
    """A note for each column of the `plan` with categories that are not in `every`, those of the history."""
    if plan is None:
        return []
    lines = []
    for column, categories, rows in _strange(plan.filter(pl.col("week") > as_of), every):
        words = rows.select(pl.col(column).str.strip_chars().unique().sort()).collect()[column]
        if len(words):
            word_list = ", ".join(f"'{word}'" for word in words)
            lines.append(
                f"The plan has {word_list} in column '{column}', which the history lacks: it counts as none. "
                f"{suggestion(words[0], categories)}"
            )
    return lines


def _strange(plan: pl.LazyFrame, every: pl.DataFrame) -> Iterator[tuple[str, pl.Series, pl.LazyFrame]]:
    """Each column of `every` that the plan has, its categories, and the rows of the plan with other categories."""
    schema = plan.collect_schema()
    for column in every["column"].unique().sort():
        if schema.get(column) == pl.String:
            categories = every.filter(column=column)["category"]
            yield column, categories, plan.filter(~category(column).is_in(categories.implode()))
