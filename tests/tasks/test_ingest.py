import json
import re
from csv import reader
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import write_deltalake
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from models.errors import AlmanacError, ContractError
from models.machines.scenario import MACHINES
from models.sales import SALES
from tasks.ingest.columns import column_mapping
from tasks.ingest.pipeline import ingest
from tasks.ingest.sources import SourceError
from tasks.storage.faults import StoreError
from tasks.storage.store import Store
from tests.steps import read, written

pytestmark = pytest.mark.usefixtures("without_run_logger")

MONDAY = date(2024, 1, 1)
HISTORY, QUARANTINE = "sales/history", "sales/quarantine"


def sales(skus: int = 5, weeks: int = 8, start: date = MONDAY) -> pl.DataFrame:
    """Sales of a few SKUs in two stores; the units of SKU 3 in week 2 are 32."""
    return pl.DataFrame(
        [
            {
                "sku": f"{sku}",
                "store": store,
                "week": start + timedelta(weeks=week),
                "units": sku * 10.0 + week,
                "price": 1.0 + sku / 100,
            }
            for sku in range(skus)
            for store in ("A", "B")
            for week in range(weeks)
        ]
    )


def csv(folder: Path, rows: pl.DataFrame | str, name: str = "sales.csv") -> str:
    """A CSV file of the rows."""
    text = rows if isinstance(rows, str) else rows.write_csv()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return str(folder / name)


def with_lines(folder: Path, *lines: str, name: str = "sales.csv") -> str:
    """`sales()` as a CSV file with further lines."""
    return csv(folder, sales().write_csv() + "".join(f"{line}\n" for line in lines), name)


def below_header(folder: Path, *lines: str) -> str:
    return csv(folder, "\n".join(["sku,store,week,units", *lines]) + "\n")


def table(store: Store, name: str = HISTORY, version: int | None = None) -> pl.DataFrame:
    frame = store.scan(name, version).collect()
    first = [c for c in ("sku", "store", "week", "units") if c in frame.columns]
    return frame.select(*first, *sorted(set(frame.columns) - set(first))).sort(first)


# the contract


@pytest.mark.parametrize(
    ("returns", "units"), [({}, [4.0]), ({"returns": "zero"}, [4.0, 0.0]), ({"returns": "net"}, [3.0, 0.0])]
)
@pytest.mark.parametrize("files", [1, 2])
def test_returns_are_bad_rows_or_zero_or_less_what_is_sold(store, tmp_path, returns, units, files):
    lines = ["1,s,2024-01-01,4", "1,s,2024-01-01,-1", "1,s,2024-01-08,-2"]
    for number in range(files):
        csv(tmp_path / "in", "\n".join(["sku,store,week,units", *lines[number::files]]), f"{number}.csv")
    result = read(store, "history", str(tmp_path / "in"), SALES, max_bad_share=1, duplicates="add", **returns)
    assert table(store).sort("week")["units"].to_list() == units
    assert result.quarantined == (0 if returns else 2)


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (",A,2024-01-01,1,1", "sku|nullability"),
        ("9,,2024-01-01,1,1", "store|nullability"),
        ("9,A,,1,1", "week|nullability"),
        ("9,A,2024-01-01,,1", "units|nullability"),
        ('"",A,2024-01-01,1,1', "sku|"),
        ("9,A,2024-13-01,1,1", "week|date"),
        ("9,A,yesterday,1,1", "week|date"),
        ("9,A,01/02/2024,1,1", "week|date"),
        ("9,A,2024-01-01,many,1", "units|number"),
        ('9,A,2024-01-01,"1,5",1', "units|number"),
        ("9,A,2024-01-01,-1,1", "units|min"),
        ("9,A,2024-01-01,nan,1", "units|nan"),
        ("9,A,2024-01-01,inf,1", "units|inf"),
        ("9,A,2024-01-01,-inf,1", "units|"),
        ("9,A,2024-01-01,1e999,1", "units|inf"),
        ("9,A,2024-01-01,1,free", "price|number"),
        ("9,A,2024-01-01,1,inf", "price|inf"),
    ],
)
def test_a_row_that_breaks_a_rule_goes_to_quarantine_with_the_rule_and_the_row_as_it_came(
    store, tmp_path, line, rule
):
    result = read(store, "history", with_lines(tmp_path, line), SALES)
    (bad,) = store.scan(QUARANTINE).collect().to_dicts()
    assert bad["rule"].startswith(rule)
    assert (bad["table"], bad["source"], bad["row_number"]) == ("history", "sales.csv", 81)
    assert [value or "" for value in json.loads(bad["row"]).values()] == next(reader([line]))
    assert (result.read, result.accepted, result.quarantined) == (81, 80, 1)
    assert result.rules == {bad["rule"]: 1}
    assert table(store).height == 80


@pytest.mark.parametrize("week", ["2024-01-01", "2024-01-01T00:00:00", "2024-01-01 00:00:00", " 2024-01-01 "])
def test_a_date_is_read_with_or_without_a_time_of_day(store, tmp_path, week):
    read(store, "history", csv(tmp_path, f"sku,store,week,units\n1,A,{week},3\n"), SALES)
    assert table(store)["week"].to_list() == [MONDAY]


TILLS = ("9,A,2024-01-01,1,1", "9,A,2024-01-01,2,4", "9,A,2024-01-08,5,1", "9,A,2024-01-08,5,1")


def test_rows_of_one_key_and_week_that_differ_are_refused_with_the_choice(store, tmp_path):
    with pytest.raises(ContractError) as caught:
        read(store, "history", with_lines(tmp_path, *TILLS), SALES)
    message = str(caught.value)
    assert "sales.csv: 1 combinations of sku, store, week" in message
    assert "units is 1.0 and 2.0" in message
    assert "--duplicates add, average or last" in message
    assert "They differ" not in message
    assert written(store) == {}


def test_what_rows_of_one_key_and_week_measure_is_named_where_they_say_it(store, tmp_path):
    text = "sku,store,week,units,fact\n9,N,2024-01-01,1,Units\n9,N,2024-01-01,2.5,Dollars\n"
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ContractError, match=r"differ in 'fact': Units and Dollars.*'sku=COLUMN\+fact'"):
        read(store, "history", str(tmp_path / "a.csv"), SALES)


@pytest.mark.parametrize(
    ("duplicates", "units", "price"), [("add", 3.0, 2.5), ("average", 1.5, 2.5), ("last", 2.0, 4.0)]
)
def test_rows_of_one_key_and_week_are_merged_as_it_is_said(store, tmp_path, duplicates, units, price):
    result = read(store, "history", with_lines(tmp_path, *TILLS[:2]), SALES, duplicates=duplicates)
    (row,) = table(store).filter(sku="9").to_dicts()
    assert (row["units"], row["price"]) == (units, price)
    assert (result.read, result.accepted, result.quarantined, result.merged) == (82, 81, 0, 1)


def test_rows_that_are_the_same_count_once_also_where_sales_are_added(store, tmp_path):
    plan = csv(tmp_path, "sku,store,week,price\n" + "0,A,2024-03-04,2\n" * 2, "plan.csv")
    assert read(store, "plan", plan, SALES, duplicates="add").merged == 1
    with pytest.raises(ContractError, match="no column that can be added up"):
        read(
            store,
            "plan",
            csv(tmp_path, "sku,store,week,price\n0,A,2024-03-04,2\n0,A,2024-03-04,3\n"),
            SALES,
            duplicates="add",
        )


def test_rows_that_are_the_same_count_once_and_are_told(store, tmp_path):
    result = read(store, "history", with_lines(tmp_path, *TILLS[2:]), SALES)
    assert table(store).filter(sku="9")["units"].to_list() == [5]
    assert (result.read, result.accepted, result.quarantined, result.merged) == (82, 81, 0, 1)


@pytest.mark.parametrize(
    ("receipt", "column"), [("r{n},2024-01-01", "receipt"), ("r,2024-01-01 09:{n:02}", "week")]
)
def test_sales_that_differ_only_in_what_is_left_out_are_several(store, tmp_path, receipt, column):
    lines = [f"{receipt.format(n=n)},A,N,1\n" for n in range(60)]
    (tmp_path / "a.csv").write_text("receipt,week,sku,store,units\n" + "".join(lines))
    with pytest.raises(ContractError, match=rf"2024-01-01, differ in '{column}'.*--duplicates add"):
        read(store, "history", str(tmp_path / "a.csv"), SALES)
    read(store, "history", str(tmp_path / "a.csv"), SALES, duplicates="add")
    assert table(store)["units"].to_list() == [60.0]


def test_keys_with_control_characters_go_to_quarantine(store, tmp_path):
    result = read(store, "history", with_lines(tmp_path, "9\a,A,2024-01-01,1,1"), SALES)
    assert result.rules == {"sku|control_characters": 1}


@pytest.mark.parametrize("word", ["nan", "NULL", "None", "#N/A", "\\N"])
def test_keys_that_stand_for_no_name_go_to_quarantine_and_na_may_be_one(store, tmp_path, word):
    result = read(
        store, "history", with_lines(tmp_path, f"{word},A,2024-01-01,1,1", "NA,A,2024-01-01,1,1"), SALES
    )
    assert result.rules == {"sku|no_name": 1}
    assert table(store).filter(sku="NA").height == 1


def test_keys_that_a_spreadsheet_has_shortened_are_refused_with_the_way_to_write_them(store, tmp_path):
    path = below_header(tmp_path, "4.01E+12,A,2024-01-01,1", "4.01E+12,A,2024-01-01,2")
    with pytest.raises(
        ContractError, match=r"sku\|digits_lost: 2\n(.*\n)*.*Save the file again with all digits"
    ):
        read(store, "history", path, SALES)


def _plan(tmp_path, *skus: str) -> str:
    lines = "".join(f"{sku},A,2024-03-04,1\n" for sku in skus)
    return csv(tmp_path, f"sku,store,week,price\n{lines}", "plan.csv")


def test_a_plan_whose_keys_lost_their_leading_zeros_is_refused_with_an_example(store, tmp_path):
    history = csv(tmp_path, sales().with_columns(sku=pl.lit("00") + pl.col("sku")))
    with pytest.raises(ContractError, match=r"2 of 2 values of 'sku'.* '1' like '001'"):
        ingest.fn(SALES, store, {"history": history, "plan": _plan(tmp_path, "1", "2")}, {}, None, 0.05)
    assert written(store) == {}


def test_events_of_machines_that_sent_nothing_are_told(store, tmp_path):
    sources = {
        "telemetry": csv(tmp_path, "machine_id,time,v\nm1,2024-01-01T00:00:00Z,1\n", "telemetry.csv"),
        "failures": csv(
            tmp_path,
            "machine_id,time,component\nm1,2024-01-01T00:00:00Z,c\nP-7,2024-01-01T00:00:00Z,c\n",
            "failures.csv",
        ),
    }
    *_, result = ingest.fn(MACHINES, store, sources, {}, 4, 0.05)
    assert result.alike == (
        "failures: 1 of 2 values of 'machine_id' are not in telemetry, for example 'P-7'.",
    )


def test_few_keys_that_look_like_known_ones_are_told_and_new_ones_are_not(store, tmp_path):
    renamed = sales().with_columns(sku=pl.col("sku").replace("3", "M03"))
    history, plan = csv(tmp_path, renamed), _plan(tmp_path, "1", "2", "m3", "new", "4.0")
    *_, result = ingest.fn(SALES, store, {"history": history, "plan": plan}, {}, None, 0.4)
    (note,) = result.alike
    assert "2 of 5 values of 'sku'" in note
    assert "'4.0' like '4'" in note


@pytest.mark.parametrize(
    "footer", ["Total,,,9,", "Total,A,,9,", ",,,9,\nPrinted 2024-05-01,,,,", "\n(3 rows affected)"]
)
def test_a_few_rows_without_a_key_below_a_table_never_stop_an_ingest(store, tmp_path, footer):
    lines = "".join(f"1,A,2024-01-0{day},3,1\n" for day in (1, 8))
    source = csv(tmp_path, f"sku,store,week,units,price\n{lines}{footer}\n")
    result = read(store, "history", source, SALES)
    assert (result.accepted, {*result.rules}) == (2, {"footer"})


def test_notes_in_the_middle_of_a_table_are_rows_and_subtotals_are_not(store, tmp_path):
    lines = [f"1,A,2024-01-{day:02},3" for day in (1, 8, 15)]
    note = below_header(tmp_path, lines[0], "Printed 2024-05-01,,,", *lines[1:])
    with pytest.raises(ContractError, match="nullability"):
        read(store, "history", note, SALES)
    result = read(store, "history", below_header(tmp_path, lines[0], "1 Total,,,3", *lines[1:]), SALES)
    assert (result.accepted, result.rules) == (3, {"subtotal": 1})


def test_keys_of_a_pivot_table_stand_once_above_their_rows(store, tmp_path):
    lines = [
        "1,A,2024-01-01,1",
        ",,2024-01-08,2",
        ",B,2024-01-01,3",
        ",,2024-01-08,4",
        "1 Total,,,10",
        "2,A,2024-01-01,5",
    ]
    result = read(store, "history", below_header(tmp_path, *lines), SALES)
    assert table(store).select("sku", "store", "units").sort("units").rows() == [
        ("1", "A", 1.0), ("1", "A", 2.0), ("1", "B", 3.0), ("1", "B", 4.0), ("2", "A", 5.0)
    ]  # fmt: skip
    assert "'sku' is empty in 3 of 6 rows and was filled from the rows above" in result.alike[0]


def test_a_few_keys_that_are_missing_are_not_filled(store, tmp_path):
    lines = [f"1,{'' if day == 8 else 'A'},2024-01-{day:02},3" for day in (1, 8, 15, 22)]
    with pytest.raises(ContractError, match=r"store\|nullability"):
        read(store, "history", below_header(tmp_path, *lines), SALES)


def test_a_last_row_without_its_week_is_a_row_and_no_footer(store, tmp_path):
    source = csv(tmp_path, "sku,store,week,units\n1,A,2024-01-01,3\n1,A,,3\n")
    with pytest.raises(ContractError, match=r"week\|nullability"):
        read(store, "history", source, SALES)


def test_north_and_south_are_words_and_no_flags(store, tmp_path):
    read(store, "history", csv(tmp_path, sales()), SALES)
    stores = csv(tmp_path, "store,region,open\nA,N,J\nB,S,N\n", "stores.csv")
    read(store, "stores", stores, SALES)
    assert table(store, "sales/stores").sort("store").rows() == [("A", 1.0, "N"), ("B", 0.0, "S")]


def test_a_line_of_totals_is_told(store, tmp_path):
    history = csv(tmp_path, sales().with_columns(sku=pl.col("sku").replace("3", "Grand total")))
    (note,) = read(store, "history", history, SALES).alike
    assert note.startswith("history: sku 'Grand total' looks like a sum, but is read like any other")


def test_a_line_of_totals_of_one_key_is_told(store, tmp_path):
    history = csv(
        tmp_path, sales().with_columns(sku=pl.col("sku").replace({"3": "2 Ergebnis", "4": "5 Total"}))
    )
    (note,) = read(store, "history", history, SALES).alike
    assert note.startswith("history: sku '2 Ergebnis' looks like a sum")


@pytest.mark.parametrize(
    ("kind", "word"), [("Type", "Return"), ("Belegart", "Retoure"), ("Transaction type", "refund")]
)
def test_returns_with_positive_units_are_subtracted_where_it_is_chosen(store, tmp_path, kind, word):
    source = csv(tmp_path, f"sku,store,week,units,{kind}\n1,A,2024-01-01,9,Sale\n1,A,2024-01-01,2,{word}\n")
    with pytest.raises(ContractError, match=r"1 of 2 rows are called returns.*--returns net subtracts them"):
        read(store, "history", source, SALES, duplicates="add")
    read(store, "history", source, SALES, duplicates="add", returns="net")
    assert table(store)["units"].to_list() == [7.0]
    read(store, "history", source, SALES, duplicates="add", returns="zero")
    assert table(store)["units"].to_list() == [9.0]


@pytest.mark.parametrize("name", ["Week Ending", "week_end", "W/E date", "WE"])
def test_a_column_that_is_named_after_the_ends_of_weeks_asks_for_the_option(store, tmp_path, name):
    source = csv(tmp_path, sales(start=MONDAY + timedelta(days=6)).rename({"week": name}))
    with pytest.raises(
        ContractError, match=f"the column '{name}' has the last days of weeks.*Add --week-ending"
    ):
        read(store, "history", source, SALES, mapping={"week": name})
    read(store, "history", source, SALES, mapping={"week": name}, week_ending=True)
    assert table(store)["week"].min() == MONDAY


def test_cancelled_orders_are_no_sales_and_numbers_of_orders_no_covariate(store, tmp_path):
    lines = [f"{1000 + n},{'Cancelled' if n % 3 == 0 else 'Shipped'},1,A,2024-01-01,2" for n in range(30)]
    source = csv(tmp_path, "\n".join(["Order ID,Status,sku,store,week,units", *lines]))
    result = read(store, "history", source, SALES, duplicates="add")
    assert result.rules == {"cancelled": 10}
    assert table(store)["units"].to_list() == [40.0]
    assert "Order ID" in result.ignored


def test_a_plan_whose_skus_are_mostly_unknown_is_told(store, tmp_path):
    read(store, "history", csv(tmp_path, sales()), SALES)
    plan = sales().drop("units")
    few = csv(tmp_path, plan.with_columns(sku=pl.col("sku").replace("4", "90")), "few.csv")
    assert read(store, "plan", few, SALES, dry_run=True).alike == ()
    most = csv(tmp_path, plan.with_columns(sku="9" + pl.col("sku")), "most.csv")
    (note,) = read(store, "plan", most, SALES, dry_run=True).alike
    assert note == "plan: 5 of 5 values of 'sku' are not in history, for example '90'."


@pytest.mark.parametrize("week", ["2021-W53", "2021 53", "53/2021", "2021 0", "KW00/2021"])
def test_weeks_that_are_not_those_of_iso_are_refused(store, tmp_path, week):
    lines = [f"1,A,2021-W{n:02},3" for n in range(1, 53)]
    with pytest.raises(
        ContractError, match=f"'{week}', but 2021 has no such ISO week.*first day of each week"
    ):
        read(store, "history", below_header(tmp_path, *lines, f"1,A,{week},3"), SALES)


def test_a_year_that_has_a_week_53_may_have_it(store, tmp_path):
    lines = [f"1,A,{week},3" for week in ("2020-W52", "2020-W53", "2021-W01")]
    assert read(store, "history", below_header(tmp_path, *lines), SALES).accepted == len(lines)


def test_a_covariate_that_is_nan_in_parquet_is_unknown(store, tmp_path):
    price = pl.when(pl.col("store") == "A").then(float("nan")).otherwise("price").alias("price")
    sales().with_columns(price).write_parquet(tmp_path / "sales.parquet")
    assert read(store, "history", str(tmp_path / "sales.parquet"), SALES).quarantined == 0
    assert table(store)["price"].null_count() == sales().height // 2


def test_a_file_per_week_or_store_gives_the_date_and_the_name_of_the_store(store, tmp_path):
    for shop in ("001", "002"):
        for week in ("W05", "W06"):
            csv(tmp_path / "files", "sku,units\n1,3\n", f"shop {shop}_2024-{week}.csv")
    mapping = {"week": "@date", "store": "@file"}
    read(store, "history", str(tmp_path / "files"), SALES, mapping=mapping)
    weeks = [date(2024, 1, 29), date(2024, 2, 5)]
    assert table(store).select("store", "week").rows() == [
        (f"shop {n}", w) for n in ("001", "002") for w in weeks
    ]


def test_a_file_keeps_a_column_whose_values_other_files_have_in_their_names(store, tmp_path):
    csv(tmp_path / "files", sales().filter(store="A").drop("store"), "shop 1.csv")
    csv(tmp_path / "files", sales().filter(store="B"), "shop 2.csv")
    read(store, "history", str(tmp_path / "files"), SALES, mapping={"store": "@file"})
    assert {*table(store)["store"]} == {"shop 1", "B"}


def test_a_file_without_a_date_in_its_name_is_named_and_the_missing_column_says_what_names_can_give(
    store, tmp_path
):
    source = csv(tmp_path, "sku,units\n1,3\n", "shop.csv")
    with pytest.raises(SourceError, match=r"store=@file(?!.*@date)"):
        read(store, "history", source, SALES, mapping={"week": "=2024-W05"})
    with pytest.raises(SourceError, match=r"shop.csv: its name has no date. Expected one such as"):
        read(store, "history", source, SALES, mapping={"week": "@date", "store": "@file"})


def test_a_store_that_is_the_sum_of_the_others_is_told(store, tmp_path):
    rows = sales()
    everywhere = rows.group_by("sku", "week").agg(pl.col("units").sum(), pl.col("price").mean())
    history = pl.concat([rows, everywhere.with_columns(store=pl.lit("All"))], how="diagonal_relaxed")
    (note,) = read(store, "history", csv(tmp_path, history), SALES).alike
    assert note.startswith("history: store 'All' is the sum of all others, but is read like any other")
    one_differs = history.with_columns(
        pl.when(store="All", week=MONDAY).then(pl.col("units") + 1).otherwise("units").alias("units")
    )
    assert not read(store, "history", csv(tmp_path, one_differs), SALES).alike


def test_a_key_that_one_file_writes_in_two_ways_is_told_and_refused_where_many_are(store, tmp_path):
    twice = csv(
        tmp_path, pl.concat([sales(), sales().with_columns(sku=pl.col("sku") + ".0").filter(sku="1.0")])
    )
    with pytest.raises(ContractError, match=r"values of 'sku' look like others: '1' like '1\.0'"):
        read(store, "history", twice, SALES)
    with pytest.raises(ContractError, match=r"Excel removes leading zeros\)\.$"):
        read(store, "history", twice, SALES, max_bad_share=0)
    (note,) = read(store, "history", twice, SALES, max_bad_share=0.9).alike
    assert "2 of 6 values" in note
    assert read(store, "history", twice, SALES).alike == ()


def test_a_bad_row_does_not_take_the_place_of_a_good_one(store, tmp_path):
    read(store, "history", with_lines(tmp_path, "9,A,2024-01-01,1,1", "9,A,2024-01-01,-2,1"), SALES)
    assert table(store).filter(sku="9")["units"].to_list() == [1]


def test_the_quarantine_keeps_all_columns_of_a_row_also_those_that_are_ignored(store, tmp_path):
    rows = sales().with_columns(note=pl.lit("hello"), rule=pl.lit("mine"))
    read(store, "history", csv(tmp_path, rows.write_csv() + "9,A,2024-01-01,-1,1,world,x\n"), SALES)
    (row,) = store.scan(QUARANTINE).collect()["row"]
    assert json.loads(row) == {
        "sku": "9", "store": "A", "week": "2024-01-01", "units": "-1", "price": "1", "note": "world", "rule": "x"
    }  # fmt: skip


def test_bad_rows_of_typed_columns_are_kept_whatever_their_type(store, tmp_path):
    rows = sales().with_columns(
        blob=pl.lit(b"\xff"), day=pl.lit(MONDAY), list=pl.lit([1.5]), group=pl.lit("g", pl.Categorical)
    )
    bad = rows.head(1).with_columns(sku=pl.lit("9"), units=pl.lit(-1.0))
    pl.concat([rows, bad]).write_parquet(tmp_path / "sales.parquet")
    result = read(store, "history", str(tmp_path / "sales.parquet"), SALES)
    (row,) = store.scan(QUARANTINE).collect()["row"]
    assert json.loads(row)["units"] == -1
    assert set(result.ignored) == {"blob", "day", "list"}


# nothing is written


@pytest.mark.parametrize(
    ("bad_lines", "share"),
    [(5, 0.05), (1, 0.0), (50, 0.3)],
)
def test_more_bad_rows_than_allowed_stop_before_anything_is_written(store, tmp_path, bad_lines, share):
    lines = [f"9,A,2024-01-01,{-n - 1},1" for n in range(bad_lines)]
    with pytest.raises(ContractError) as caught:
        read(store, "history", with_lines(tmp_path, *lines), SALES, max_bad_share=share)
    message = str(caught.value)
    assert f"{bad_lines} of {80 + bad_lines} rows" in message
    assert f"units|min: {bad_lines}" in message
    assert "sales.csv, row 81" in message
    assert "--max-bad-share" in message
    assert "--returns net" in message
    assert not Path(store.uri).exists()


def test_as_many_bad_rows_as_allowed_are_accepted(store, tmp_path):
    lines = [f"9,A,2024-01-01,{-n - 1},1" for n in range(4)]
    assert read(store, "history", with_lines(tmp_path, *lines), SALES, max_bad_share=4 / 84).quarantined == 4


def test_bad_rows_of_one_source_stop_the_others_too(store, tmp_path):
    good = csv(tmp_path, sales())
    bad = csv(tmp_path, "sku,store,week\n1,A,never\n", "plan.csv")
    with pytest.raises(ContractError, match="plan: 1 of 1 rows"):
        ingest.fn(SALES, store, {"history": good, "plan": bad}, {}, None, 0.05)
    assert written(store) == {}


def test_a_file_with_only_bad_rows_is_refused_even_when_all_may_be_bad(store, tmp_path):
    with pytest.raises(ContractError, match=r"1 of 1 rows \(100.0%\)"):
        read(store, "history", csv(tmp_path, "sku,store,week,units\n1,A,never,1\n"), SALES, max_bad_share=1.0)
    assert written(store) == {}


def test_a_later_failure_changes_nothing_that_is_there(store, tmp_path):
    read(store, "history", with_lines(tmp_path, "9,A,2024-01-01,-1,1"), SALES)
    before = written(store)
    worse = with_lines(tmp_path, *[f"9,A,2024-01-01,{-n - 1},1" for n in range(20)], name="worse.csv")
    with pytest.raises(ContractError):
        read(store, "history", worse, SALES)
    assert written(store) == before


def test_a_header_without_rows_is_refused(store, tmp_path):
    with pytest.raises(SourceError, match=r"there is a header but no rows"):
        read(store, "history", csv(tmp_path, "sku,store,week,units\n"), SALES)
    assert not Path(store.uri).exists()


def test_a_night_without_a_failure_is_no_mistake(store, tmp_path):
    columns = "machine_id,time,component\n"
    result = read(store, "failures", csv(tmp_path, columns), MACHINES, timezone="UTC")
    assert (result.read, result.changed, result.version) == (0, 0, 0)
    assert store.scan("machines/failures").collect().is_empty()
    again = read(store, "failures", csv(tmp_path, columns), MACHINES, timezone="UTC")
    assert (again.changed, again.version) == (0, 0)


def test_one_value_may_be_given_to_all_rows(store, tmp_path):
    rows = csv(tmp_path, "sku,week,units\nA,2024-01-01,5\n")
    with pytest.raises(SourceError, match=r"'store' is missing.*\n.*--column store==VALUE"):
        read(store, "history", rows, SALES)
    read(store, "history", rows, SALES, mapping=column_mapping(["store==main"]))
    assert table(store).select("sku", "store").rows() == [("A", "main")]
    with pytest.raises(SourceError, match="expected TABLE_COLUMN=SOURCE_COLUMN"):
        column_mapping(["store=="])


def test_a_date_and_a_time_of_the_day_may_be_two_columns(store, tmp_path):
    rows = csv(tmp_path, "machine_id,Date,Time,component\n1,29.01.2024,06:30,pump\n2,30.01.2024,,pump\n")
    mapping = column_mapping(["time=Date+Time"])
    result = read(store, "failures", rows, MACHINES, timezone="UTC", mapping=mapping, max_bad_share=0.5)
    assert store.scan("machines/failures").select("time").collect().item() == datetime(
        2024, 1, 29, 6, 30, tzinfo=UTC
    )
    assert result.rules == {"time|nullability": 1}


def test_a_year_and_a_week_may_be_two_columns_which_are_no_covariates(store, tmp_path):
    lines = "".join(f"A,main,2024,{week},{week}\n" for week in range(9, 15))
    rows = csv(tmp_path, f"sku,store,Year,Week,units\n{lines}")
    read(store, "history", rows, SALES, mapping=column_mapping(["week=Year+Week"]))
    stored = table(store)
    assert stored["week"].to_list()[:2] == [date(2024, 2, 26), date(2024, 3, 4)]
    assert stored.columns == ["sku", "store", "week", "units", "shard"]


def test_a_store_that_cannot_be_written_is_named_before_anything_is_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        read(Store(str(tmp_path / "file" / "store")), "history", csv(tmp_path, sales()), SALES)


# weeks


def test_weeks_that_start_on_different_days_are_refused_with_examples_of_each(store, tmp_path):
    with pytest.raises(ContractError) as caught:
        read(store, "history", with_lines(tmp_path, "7,B,2024-01-04,1,1"), SALES)
    message = str(caught.value)
    assert "history: 80 rows start on Monday, e.g. sku 0, store A, week 2024-01-01" in message
    assert "history: 1 rows start on Thursday, e.g. sku 7, store B, week 2024-01-04" in message
    assert written(store) == {}


@pytest.mark.parametrize(
    ("weeks", "message"),
    [
        (["1", "53"], "week is '1', which has no year.*YEAR_COLUMN"),
        (["KW01", "KW02"], "week is 'KW01', which has no year"),
        (["Jan-24", "Feb-24"], "week is 'Jan-24', a month.*days with --daily"),
    ],
)
def test_months_and_weeks_without_a_year_are_said_to_be_so(store, tmp_path, weeks, message):
    lines = [f"A,N,{week},1\n" for week in weeks]
    (tmp_path / "a.csv").write_text("sku,store,week,units\n" + "".join(lines))
    with pytest.raises(ContractError, match=message):
        read(store, "history", str(tmp_path / "a.csv"), SALES)


def test_sales_of_days_are_refused_with_what_makes_weeks_of_them(store, tmp_path):
    days = "".join(f"A,N,{MONDAY + timedelta(days=n)},5\n" for n in range(14) if n % 7 != 6)
    (tmp_path / "sales.csv").write_text(f"sku,store,week,units\n{days}")
    with pytest.raises(ContractError, match=r"If they are days, add --daily monday"):
        read(store, "history", str(tmp_path / "sales.csv"), SALES)
    result = read(store, "history", str(tmp_path / "sales.csv"), SALES, daily="monday")
    assert table(store).select("week", "units").rows() == [(MONDAY, 30), (MONDAY + timedelta(days=7), 30)]
    assert "the first starts on 2024-01-01, the last on 2024-01-08" in result.alike[0]


def test_weeks_of_the_plan_start_on_the_same_day_as_those_of_the_sales(store, tmp_path):
    thursdays = csv(tmp_path, sales(start=MONDAY + timedelta(days=59)).drop("units"), "plan.csv")
    history = csv(tmp_path, sales())
    with pytest.raises(ContractError, match="weeks start on different weekdays"):
        ingest.fn(SALES, store, {"history": history, "plan": thursdays}, {}, None, 0.05)
    assert written(store) == {}
    read(store, "history", history, SALES)
    with pytest.raises(ContractError, match=r"(?s)Thursday.*stored history.*Monday"):
        read(store, "plan", thursdays, SALES)
    assert list(written(store)) == ["sales/history"]


@pytest.mark.parametrize("week", ["2024-W05", "KW5 2024", "29.01.-04.02.2024"])
def test_with_week_ending_whole_weeks_are_refused(store, tmp_path, week):
    with pytest.raises(ContractError, match=r"which names a whole week.*Leave --week-ending out"):
        read(store, "history", below_header(tmp_path, f"1,A,{week},5"), SALES, week_ending=True)


def test_a_time_with_a_zone_is_of_the_day_that_it_names(store, tmp_path):
    week = pl.col("week").cast(pl.Datetime).dt.replace_time_zone("Europe/Zurich")
    sales(weeks=1).with_columns(week).write_parquet(tmp_path / "a.parquet")
    read(store, "history", str(tmp_path / "a.parquet"), SALES)
    assert table(store)["week"].unique().to_list() == [MONDAY]


def test_with_week_ending_a_date_is_the_last_day_of_its_week(store, tmp_path):
    sundays = csv(tmp_path, sales(start=MONDAY + timedelta(days=6)))
    ingest.fn(SALES, store, {"history": sundays}, {}, 4, 0.05, {"week_ending": True})
    assert_frame_equal(
        table(store).drop("shard"), sales().sort("sku", "store", "week"), check_column_order=False
    )
    with pytest.raises(ContractError, match=r"(?s)Sunday.*stored history.*Monday.*--week-ending"):
        read(store, "history", sundays, SALES)


def test_weeks_that_are_not_complete_are_named():
    history = sales(weeks=3).lazy()
    as_of = SALES.resolve_as_of({"history": history}, None, datetime(2024, 1, 18, tzinfo=UTC))
    (note,) = SALES.omissions({"history": history}, as_of)
    assert "2024-01-15 (10 rows)" in note
    assert "counts from 2024-01-22" in note
    assert SALES.omissions({"history": history}, MONDAY + timedelta(weeks=2)) == []


# again and later


def test_the_same_file_twice_changes_nothing(store, tmp_path):
    source = with_lines(tmp_path, "9,A,2024-01-01,-1,1", "8,A,2024-01-01,1,1", "8,A,2024-01-01,1,1")
    first = read(store, "history", source, SALES)
    before = written(store)
    again = read(store, "history", source, SALES)
    assert written(store) == before
    assert again.changed == 0
    assert first.changed == first.accepted == again.accepted
    assert (again.quarantined, again.merged) == (1, 1)
    assert store.scan(QUARANTINE).collect().height == 1


def test_a_later_file_replaces_values_and_the_earlier_ones_stay_in_the_older_version(store, tmp_path):
    read(store, "history", csv(tmp_path, sales()), SALES)
    later = sales().filter(pl.col("sku") == "3").with_columns(units=pl.lit(99.0))
    result = read(store, "history", csv(tmp_path, later, "later.csv"), SALES)
    assert result.changed == 16
    assert table(store).height == 80
    assert table(store).filter(sku="3")["units"].unique().to_list() == [99]
    assert_frame_equal(
        table(store).filter(pl.col("sku") != "3"), table(store, version=0).filter(pl.col("sku") != "3")
    )
    assert_frame_equal(table(store, version=0).drop("shard"), table_of(sales()))


def table_of(frame: pl.DataFrame) -> pl.DataFrame:
    first = ["sku", "store", "week", "units"]
    return frame.select(*first, *sorted(set(frame.columns) - set(first))).sort(first)


def test_only_rows_with_other_values_count_as_changed(store, tmp_path):
    read(store, "history", csv(tmp_path, sales()), SALES)
    later = sales(weeks=9).with_columns(
        price=pl.when(sku="2", week=MONDAY).then(None).otherwise(pl.col("price"))
    )
    result = read(store, "history", csv(tmp_path, later, "later.csv"), SALES)
    assert result.changed == 10 + 2
    assert_frame_equal(table(store).drop("shard"), table_of(later))


def test_a_file_without_a_column_keeps_the_values_of_that_column(store, tmp_path):
    read(store, "history", csv(tmp_path, sales()), SALES)
    later = sales(weeks=9).drop("price").with_columns(pl.col("units") + 1)
    read(store, "history", csv(tmp_path, later, "later.csv"), SALES)
    prices = table(store).filter(pl.col("week") < MONDAY + timedelta(weeks=8))["price"]
    assert_frame_equal(prices.to_frame(), table_of(sales()).select("price"))
    assert table(store).filter(pl.col("week") == MONDAY + timedelta(weeks=8))["price"].null_count() == 10


def test_a_column_that_comes_later_is_null_in_earlier_rows(store, tmp_path):
    read(store, "history", csv(tmp_path, sales()), SALES)
    later = sales(weeks=1).with_columns(deal=pl.lit(1.0))
    result = read(store, "history", csv(tmp_path, later, "later.csv"), SALES)
    assert result.changed == 10
    assert table(store)["deal"].null_count() == 70


def test_rows_of_two_files_that_differ_are_refused_unless_the_later_one_counts(store, tmp_path):
    folder = tmp_path / "in"
    csv(folder, sales(), "2024-01.csv")
    csv(folder, sales(skus=1).with_columns(units=pl.lit(7.0)), "2024-02.csv")
    with pytest.raises(ContractError, match=r"14 combinations .* in 2024-01.csv and 2024-02.csv") as refusal:
        read(store, "history", str(folder), SALES)
    assert "--duplicates add, average or last, the row of the later file" in str(refusal.value)
    assert written(store) == {}
    result = read(store, "history", str(folder), SALES, duplicates="last")
    assert (result.read, result.accepted, result.quarantined, result.merged) == (96, 80, 0, 16)
    assert table(store).filter(sku="0")["units"].unique().to_list() == [7]
    assert written(store) == {HISTORY: 0}


def test_a_time_that_is_far_from_those_of_all_files_goes_to_quarantine(store, tmp_path):
    csv(tmp_path / "in", sales(), "1.csv")
    csv(tmp_path / "in", sales(skus=1, weeks=1, start=date(1970, 1, 5)).head(1), "2.csv")
    result = read(store, "history", str(tmp_path / "in"), SALES)
    assert (result.read, result.accepted, result.rules) == (81, 80, {"week|far_from_others": 1})
    assert table(store)["week"].min() == MONDAY


def test_a_time_that_is_far_from_the_stored_ones_goes_to_quarantine(store, tmp_path):
    csv(tmp_path / "in", sales(), "1.csv")
    read(store, "history", str(tmp_path / "in"), SALES)
    later = sales(weeks=1, start=MONDAY + timedelta(weeks=8))
    clock = sales(skus=1, weeks=1, start=date(1970, 1, 5)).head(1)
    csv(tmp_path / "later", pl.concat([later, clock]), "1.csv")
    result = read(store, "history", str(tmp_path / "later"), SALES, max_bad_share=0.2)
    assert result.rules == {"week|far_from_others": 1}
    csv(tmp_path / "alone", clock, "1.csv")
    with pytest.raises(ContractError, match=r"week\|far_from_others: 1"):
        read(store, "history", str(tmp_path / "alone"), SALES)
    csv(tmp_path / "before", sales(weeks=52, start=MONDAY - timedelta(weeks=52)), "1.csv")
    assert read(store, "history", str(tmp_path / "before"), SALES).quarantined == 0


def test_files_that_show_different_orders_of_day_and_month_are_refused(store, tmp_path):
    for name, form in (("a.csv", "%d/%m/%Y"), ("b.csv", "%m/%d/%Y")):
        weeks = pl.col("week").dt.strftime(form)
        csv(tmp_path / "in", sales(skus=1).with_columns(weeks, sku=pl.lit(name)), name)
    with pytest.raises(SourceError, match=r"b\.csv: week is month-first, but not in a\.csv"):
        read(store, "history", str(tmp_path / "in"), SALES)


def test_a_further_column_is_one_if_files_spell_it_in_two_ways(store, tmp_path):
    csv(tmp_path / "in", sales(), "1.csv")
    csv(tmp_path / "in", sales(start=MONDAY + timedelta(weeks=8)).rename({"price": "PRICE"}), "2.csv")
    read(store, "history", str(tmp_path / "in"), SALES)
    assert table(store)["price"].null_count() == 0


def test_rows_of_several_files_are_averaged_as_those_of_one(store, tmp_path):
    for name, units in {"a": (2, 4), "b": (9,)}.items():
        lines = [f"1,s,2024-01-01,{value}" for value in units]
        csv(tmp_path / "in", "\n".join(["sku,store,week,units", *lines]), f"{name}.csv")
    read(store, "history", str(tmp_path / "in"), SALES, duplicates="average")
    assert table(store)["units"].to_list() == [5]


@pytest.mark.parametrize("duplicates", [None, "average", "last"])
def test_a_column_that_a_file_lacks_has_the_value_of_the_file_that_has_it(store, tmp_path, duplicates):
    for number in range(2):
        csv(
            tmp_path / "in",
            sales().with_columns(pl.lit(number + 1.0).alias(f"deal {number}")),
            f"{number}.csv",
        )
    result = read(store, "history", str(tmp_path / "in"), SALES, duplicates=duplicates)
    assert (result.accepted, result.merged) == (80, 80)
    assert table(store).select(pl.col("deal 0", "deal 1").unique()).rows() == [(1, 2)]


def test_a_file_of_the_same_name_in_another_folder_is_another_file(store, tmp_path):
    csv(tmp_path / "in" / "1", sales(), "part.csv")
    csv(tmp_path / "in" / "2", sales(), "part.csv")
    result = read(store, "history", str(tmp_path / "in"), SALES)
    assert (result.quarantined, result.merged, result.alike) == (0, 80, ())


def test_two_ingests_at_the_same_time_lose_nothing_and_repeat_nothing(store, tmp_path, together):
    read(store, "history", with_lines(tmp_path, "9,A,2024-01-01,-1,1"), SALES)
    files = []
    for number in range(4):
        rows = sales(skus=number + 2).with_columns(units=pl.col("units") + 100)
        text = rows.write_csv() + f"same,A,2024-01-01,{number},1\nbad,A,2024-01-01,-1,1\n"
        files.append(csv(tmp_path, text, f"{number}.csv"))
    files[3] = files[2]
    results = together(_ingest, [(store, file) for file in files])
    stored = table(store).drop("shard")
    assert stored.filter(pl.col("sku") != "same").equals(table_of(sales().with_columns(units=_later(4))))
    assert stored.filter(sku="same").height == 1
    assert stored.filter(sku="same")["units"].item() in (0, 1, 2)
    bad = store.scan(QUARANTINE).collect()
    assert sorted(bad["source"]) == ["0.csv", "1.csv", "2.csv", "sales.csv"]
    assert store.version(HISTORY) >= max(one.version for one in results)


def _later(skus: int) -> pl.Expr:
    return pl.when(pl.col("sku").cast(pl.Int64) < skus).then(pl.col("units") + 100).otherwise("units")


def test_first_ingests_at_the_same_time_lose_nothing_and_repeat_nothing(store, tmp_path, together):
    halves = [sales().filter(pl.col("store") == name) for name in ("A", "B")]
    files = [csv(tmp_path, half, f"{i}.csv") for i, half in enumerate(halves)]
    together(_ingest, [(store, file) for file in [*files, *files]])
    assert_frame_equal(table(store).drop("shard"), table_of(sales()))


def _ingest(store, source):
    from prefect.logging import disable_run_logger

    with disable_run_logger():
        return read(store, "history", source, SALES)


# sources


def test_csv_parquet_folder_glob_and_delta_give_the_same_table(tmp_path):
    rows = sales().with_columns(deal=pl.lit(1).cast(pl.Int8), share=pl.lit(0.5, pl.Float32))
    csv(tmp_path, rows)
    rows.write_parquet(tmp_path / "sales.parquet")
    rows.with_columns(sku=pl.col("sku").cast(pl.Int32), week=pl.col("week").cast(pl.Datetime)).write_parquet(
        tmp_path / "typed.parquet"
    )
    for number, part in enumerate(rows.iter_slices(30)):
        csv(tmp_path / "folder", part, f"{number}.csv")
    write_deltalake(str(tmp_path / "delta"), rows)
    frames = {}
    for place in ("sales.csv", "sales.parquet", "typed.parquet", "folder", "folder/*.csv", "delta"):
        store = Store(str(tmp_path / "stores" / place.replace("/*", "-")))
        read(store, "history", str(tmp_path / place), SALES)
        frames[place] = table(store)
    expected = frames.pop("sales.parquet")
    assert expected.select("deal", "share").unique().rows() == [(1.0, 0.5)]
    for place, frame in frames.items():
        assert frame.equals(expected), place


def test_columns_of_other_names_are_mapped(store, tmp_path):
    rows = sales().rename({"week": "date", "units": "qty"})
    result = read(store, "history", csv(tmp_path, rows), SALES, mapping={"week": "date", "units": "qty"})
    assert_frame_equal(table(store).drop("shard"), table_of(sales()))
    assert result.ignored == ()


def test_one_mapping_serves_sources_of_which_only_some_need_it(store, tmp_path):
    history = csv(tmp_path, sales().rename({"week": "date"}))
    plan = csv(tmp_path, sales(start=MONDAY + timedelta(weeks=8)).drop("units"), "plan.csv")
    ingest.fn(SALES, store, {"history": history, "plan": plan}, {"week": "date"}, None, 0.05)
    assert set(written(store)) == {HISTORY, "sales/plan"}


def test_a_mapping_from_a_column_that_no_source_has_is_refused(store, tmp_path):
    with pytest.raises(
        SourceError, match=r"--column price2=prise: no source has a column 'prise'. Found: price, sku"
    ):
        read(store, "history", csv(tmp_path, sales()), SALES, mapping={"price2": "prise"})
    assert written(store) == {}


def test_further_columns_of_numbers_and_of_few_words_are_covariates_and_other_text_is_reported(
    store, tmp_path
):
    rows = sales().with_columns(
        temperature=pl.lit("12.5"), sparse=pl.when(pl.col("units") == 0).then(pl.lit(None)).otherwise(pl.lit("1")),
        colour=pl.lit("red"), name=pl.int_range(pl.len()).cast(pl.String) + "th",
        mostly=pl.when(pl.col("units") < 30).then(pl.lit("none left")).otherwise(pl.lit("1")),
    )  # fmt: skip
    result = read(store, "history", csv(tmp_path, rows), SALES)
    assert result.ignored == ("name",)
    schema = store.scan(HISTORY).collect_schema()
    assert {name: schema[name] for name in ("price", "temperature", "sparse")} == dict.fromkeys(
        ("price", "temperature", "sparse"), pl.Float64
    )
    assert "name" not in schema
    assert schema["colour"] == schema["mostly"] == pl.String


def test_events_of_stores_join_those_that_were_stored_without(store, tmp_path):
    for name, columns in (("old.csv", {}), ("new.csv", {"Store": ["", "7"]})):
        days = pl.DataFrame({"name": ["fair", "feast"], "date": ["2024-05-01", "2024-06-01"], **columns})
        read(store, "events", csv(tmp_path, days, name), SALES)
    rows = store.scan("sales/events").sort("name").select("name", "store").collect().rows()
    assert rows == [("fair", None), ("feast", None), ("feast in store 7", "7")]


def test_a_plan_without_any_promotion_keeps_the_column_that_the_history_has_words_in(store, tmp_path):
    weeks = (
        sales(start=MONDAY + timedelta(weeks=8)).drop("units").with_columns(deal=pl.lit(""), other=pl.lit(""))
    )
    history = csv(tmp_path, sales().with_columns(deal=pl.lit("leaflet")))
    sources = {"history": history, "plan": csv(tmp_path, weeks, "plan.csv")}
    _, plan = ingest.fn(SALES, store, sources, {}, None, 0.05)
    assert plan.ignored == ("other",)
    assert store.scan("sales/plan").collect()["deal"].null_count() == plan.accepted


def test_a_column_of_words_for_unknown_holds_no_words_so_that_numbers_may_follow(store, tmp_path):
    (first,) = ingest.fn(
        SALES, store, {"history": csv(tmp_path, sales().with_columns(promo=pl.lit("NA")))}, {}, 4, 0.05
    )
    assert first.ignored == ("promo",)
    next_weeks = sales(start=MONDAY + timedelta(weeks=20)).with_columns(promo=pl.lit("1"))
    assert read(store, "history", csv(tmp_path, next_weeks), SALES).ignored == ()
    assert table(store)["promo"].unique().sort().to_list() == [None, 1.0]
    words = sales(start=MONDAY + timedelta(weeks=40)).with_columns(
        deal=pl.Series(["NA", "leaflet"] * sales().height).head(sales().height)
    )
    read(store, "history", csv(tmp_path, words), SALES)
    plan = sales(start=MONDAY + timedelta(weeks=60)).drop("units").with_columns(deal=pl.lit("NA"))
    assert read(store, "plan", csv(tmp_path, plan), SALES).ignored == ()
    assert store.scan("sales/plan").collect()["deal"].null_count() == plan.height


def test_prices_in_cents_after_prices_in_euros_are_noted(store, tmp_path):
    read(store, "history", csv(tmp_path, sales().with_columns(price=pl.lit(2.5))), SALES)
    later = sales(start=MONDAY + timedelta(weeks=20))
    same = csv(tmp_path, later.with_columns(price=pl.lit(2.0)))
    assert read(store, "history", same, SALES, dry_run=True).alike == ()
    (note,) = read(store, "history", csv(tmp_path, later.with_columns(price=pl.lit(250.0))), SALES).alike
    assert note.startswith(
        "history: price is on another scale in these rows than in earlier ones for 5 of 5 SKUs"
    )


def test_a_plan_has_numbers_where_the_history_has_numbers_and_words_where_it_has_words(store, tmp_path):
    history = csv(tmp_path, sales().with_columns(promo=pl.lit(1), deal=pl.lit("leaflet")))
    weeks = sales(start=MONDAY + timedelta(weeks=20)).drop("units")
    plan = csv(tmp_path, weeks.with_columns(promo=pl.lit("tv"), deal=pl.lit(1)), "plan.csv")
    _, result = ingest.fn(SALES, store, {"history": history, "plan": plan}, {}, None, 0.05)
    assert result.ignored == ("promo",)
    assert store.scan("sales/plan").select("deal").unique().collect().rows() == [("1",)]


def test_a_column_that_earlier_files_had_is_noted_where_it_is_missing(store, tmp_path):
    rows = sales().with_columns(promo=pl.lit(1), deal=pl.lit("leaflet"))
    assert read(store, "history", csv(tmp_path, rows), SALES).alike == ()
    result = read(store, "history", csv(tmp_path, sales()), SALES, dry_run=True)
    assert result.alike == (
        "history: earlier files had 'promo', 'deal', which are missing here: unknown in new rows, as before in stored ones.",
    )
    words = rows.with_columns(promo=pl.lit("tv"))
    result = read(store, "history", csv(tmp_path, words), SALES, dry_run=True)
    assert (result.ignored, result.alike) == (("promo",), ())


@pytest.mark.parametrize("comma", [False, True])
def test_percentages_beside_fractions_are_fractions(store, tmp_path, comma):
    texts = [
        "sku;store;week;units;discount",
        "1;A;2024-01-01;1;12.5 %",
        "2;A;2024-01-01;1;0.2",
        "3;A;2024-01-01;1;NA",
    ]
    text = "\n".join(texts).replace(".", "," if comma else ".")
    read(store, "history", csv(tmp_path, text), SALES)
    assert table(store)["discount"].to_list() == [0.125, 0.2, None]


def test_percentages_beside_whole_numbers_are_refused(store, tmp_path):
    discounts = pl.Series(["10%", "1"] * sales().height).head(sales().height)
    with pytest.raises(SourceError, match=r"'discount' has some numbers with a percent sign .* in one way"):
        read(store, "history", csv(tmp_path, sales().with_columns(discount=discounts)), SALES)


def test_a_letter_that_is_a_word_in_stored_rows_or_in_all_rows_is_no_flag(store, tmp_path):
    header = "store,side,organic\n"
    read(store, "stores", csv(tmp_path, f"{header}A,N,Y\nB,S,N\n"), SALES)
    read(store, "stores", csv(tmp_path, f"{header}C,N,N\n"), SALES)
    rows = store.scan("sales/stores").sort("store").select("side", "organic").collect()
    assert rows.rows() == [("N", 1), ("S", 0), ("N", 0)]
    other = Store(str(tmp_path / "other"))
    read(other, "stores", csv(tmp_path, f"{header}A,N,Y\nB,N,N\n"), SALES)
    assert other.scan("sales/stores").select("side", "organic").sort("organic").collect().rows() == [
        ("N", 0),
        ("N", 1),
    ]


def test_words_are_no_numbers_of_a_stored_column_and_numbers_are_words_of_one(store, tmp_path):
    first = sales().with_columns(size=pl.lit("2.5"), code=pl.lit("A1"))
    read(store, "history", csv(tmp_path, first), SALES)
    next_weeks = sales(start=MONDAY + timedelta(weeks=20)).with_columns(
        size=pl.lit("large"), code=pl.lit("7")
    )
    assert read(store, "history", csv(tmp_path, next_weeks), SALES).ignored == ("size",)
    later = store.scan(HISTORY).filter(pl.col("week") >= MONDAY + timedelta(weeks=20)).select("size", "code")
    assert later.unique().collect().rows() == [(None, "7")]


def test_words_in_one_file_where_another_has_numbers_are_left_out_and_told(store, tmp_path):
    csv(tmp_path / "in", "store,size,kind\nA,100,1\n", "1.csv")
    csv(tmp_path / "in", "store,size,kind\nB,large,NA\n", "2.csv")
    result = read(store, "stores", str(tmp_path / "in"), SALES)
    assert result.alike == (
        "stores: 'size' of 2.csv is left out: it has words where other rows have numbers, or too many.",
    )


def test_names_that_mean_something_here_are_no_trouble_in_a_source(store, tmp_path):
    names = [
        "row",
        "rule",
        "known",
        "row_number",
        "filter",
        "columns",
        "validate",
        "class",
        "units|low",
        "a b",
    ]
    names += [
        "(x)",
        "é",
        "x.y",
        "t",
        "s",
        '"q"',
        "a`b",
        "as_of",
        "_last",
        "covariate_0",
        "len",
        "select",
    ]
    rows = sales().with_columns(pl.lit(float(i)).alias(name) for i, name in enumerate(names))
    for number, units in enumerate((0.0, 1.0)):
        frame = rows.with_columns(pl.col("units") + units)
        frame.write_parquet(tmp_path / f"{number}.parquet")
        result = read(store, "history", str(tmp_path / f"{number}.parquet"), SALES)
        assert result.accepted == result.changed == 80
        assert_frame_equal(table(store).drop("shard"), table_of(frame.drop(result.ignored)))
    assert result.ignored == ("a`b",)


def test_names_that_differ_only_in_case_are_refused_in_a_file_and_are_the_same_in_several(store, tmp_path):
    both = csv(tmp_path, sales().with_columns(Price=pl.lit(1.0)), "both.csv")
    message = r"'price' and 'Price' differ only .*--column price=Price"
    with pytest.raises(SourceError, match=message):
        read(store, "history", both, SALES)
    read(store, "history", csv(tmp_path, sales()), SALES)
    other = csv(tmp_path, sales().rename({"price": "Price"}), "other.csv")
    assert read(store, "history", other, SALES).changed == 0
    plan = csv(tmp_path, "SKU,Store,Week,PRICE\n1,A,2024-03-04,2\n", "plan.csv")
    read(store, "plan", plan, SALES)
    assert table(store, "sales/plan")["price"].to_list() == [2.0]
    telemetry = csv(tmp_path, "machine_id,time,Temp,temp\n1,2024-01-01T00:00:00Z,1,2\n", "telemetry.csv")
    with pytest.raises(SourceError, match="'Temp' and 'temp' differ only"):
        read(store, "telemetry", telemetry, MACHINES)
    assert read(store, "history", both, SALES, mapping={"price": "Price"}).changed == 64


def test_a_shard_column_of_the_source_is_ignored_and_said_to_be(store, tmp_path):
    result = read(store, "history", csv(tmp_path, sales().with_columns(shard=pl.lit(99))), SALES)
    assert result.ignored == ("shard",)
    assert table(store)["shard"].max() < 4


# shards


def test_the_number_of_shards_is_settled_by_the_first_ingest_that_writes(store, tmp_path):
    with pytest.raises(ContractError):
        read(store, "history", csv(tmp_path, "sku,store,week,units\n1,A,never,1\n"), SALES, shards=3)
    read(store, "history", csv(tmp_path, sales()), SALES, shards=5)
    read(store, "history", csv(tmp_path, sales()), SALES, shards=None)
    with pytest.raises(StoreError, match=r"5 shards; 7 was requested.*--shards"):
        read(store, "history", csv(tmp_path, sales()), SALES, shards=7)
    assert table(store)["shard"].max() < 5


def test_all_stores_of_a_sku_are_in_one_shard_in_history_and_plan(store, tmp_path):
    read(store, "history", csv(tmp_path, sales(skus=30)), SALES)
    read(store, "plan", csv(tmp_path, sales(skus=30, start=MONDAY + timedelta(weeks=8)).drop("units")), SALES)
    both = pl.concat([table(store).select("sku", "shard"), table(store, "sales/plan").select("sku", "shard")])
    assert both.group_by("sku").agg(pl.col("shard").n_unique())["shard"].max() == 1
    assert both["shard"].n_unique() == 4


# any input


FIELDS = st.sampled_from(
    ["1", "A", "", "2024-01-01", "2024-01-08", "x", "-1", "1e400", '"a,b"', " 3 ", "nan", "é"]
)
LINES = st.lists(FIELDS, min_size=3, max_size=6).map(",".join)
HEADERS = st.sampled_from(
    ["sku,store,week,units", "sku,store,week,units,price", "sku,store,units,week,note,x", "a,b"]
)


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HEADERS, st.lists(LINES, max_size=12), st.sampled_from([0.0, 0.5, 1.0]))
@example("sku,store,week,units", ["1,A,2024-01-01,1"] * 3, 1.0)
def test_whatever_a_csv_holds_every_row_is_accepted_or_in_quarantine_or_there_is_a_clear_error(
    tmp_path_factory, header, lines, share
):
    folder = tmp_path_factory.mktemp("any")
    store = Store(str(folder / "store"))
    source = csv(folder, "\n".join([header, *lines]) + "\n")
    try:
        result = read(store, "history", source, SALES, max_bad_share=share)
    except AlmanacError:
        assert written(store) == {}
        return
    bad = store.scan(QUARANTINE).collect() if store.version(QUARANTINE) is not None else None
    assert result.read == len([line for line in lines if line])
    assert result.read - result.merged == table(store).height + (0 if bad is None else bad.height)
    assert result.accepted == table(store).height
    assert sum(result.rules.values()) == result.quarantined


@pytest.mark.slow
@settings(max_examples=80)
@given(st.binary(max_size=80).map(lambda content: b"sku,store,week,units\n1,A,2024-01-01,1\n" + content))
def test_whatever_bytes_follow_the_outcome_is_rows_or_a_clear_error(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "sales.csv").write_bytes(content)
    store = Store(str(folder / "store"))
    try:
        result = read(store, "history", str(folder / "sales.csv"), SALES, max_bad_share=1.0)
    except AlmanacError:
        assert written(store) == {}
        return
    assert result.read == result.accepted + result.quarantined


# Blob


def test_ingest_reads_from_blob_and_writes_to_blob(azurite, tmp_path):
    container = azurite.container()
    rows = sales()
    rows.write_parquet(f"{container}/in/sales.parquet")
    later = rows.with_columns(pl.col("units") + 1)
    store = Store(f"{container}/store")
    read(store, "history", f"{container}/in/sales.parquet", SALES)
    result = read(store, "history", with_lines(tmp_path, "9,A,2024-01-01,-1,1"), SALES)
    assert (result.changed, result.quarantined) == (0, 1)
    later.write_parquet(f"{container}/in/sales.parquet")
    assert read(store, "history", f"{container}/in/*.parquet", SALES).changed == 80
    assert_frame_equal(table(store).drop("shard"), table_of(later))
    assert_frame_equal(table(store, version=0).drop("shard"), table_of(rows))


GROUPED = "sku;store;week;units{}\n1.234;A;2024-01-01;1.234{}\n1.234;A;2024-01-08;950{}\n"
"""Units that are 1234 where decimals have commas; the name of the SKU stays whatever they have."""


@pytest.mark.parametrize(
    ("text", "options", "units"),
    [
        (GROUPED.format("", "", ""), {"decimals": "comma"}, 1234),
        (GROUPED.format("", "", ""), {"decimals": "point"}, 1.234),
        (GROUPED.format(";price", ";1,5", ";1,5"), {}, 1234),
        (GROUPED.format(";price", ";1.5", ";1.5"), {}, 1.234),
        (GROUPED.format("", "", "").replace(";1.234\n", ";1,234\n"), {}, 1.234),
        (GROUPED.format("", "", "").replace(";", ","), {}, 1.234),
    ],
)
def test_a_number_with_a_point_is_a_thousand_where_the_file_or_the_user_says_so(
    store, tmp_path, text, options, units
):
    read(store, "history", csv(tmp_path, text), SALES, **options)
    assert table(store).sort("week").select("sku", "units").rows() == [("1.234", units), ("1.234", 950)]


def test_numbers_that_could_be_thousands_are_asked_for(store, tmp_path):
    with pytest.raises(SourceError, match=r"units has only numbers such as 1.234.*--decimals comma"):
        read(store, "history", csv(tmp_path, GROUPED.format("", "", "")), SALES)
    wide = csv(tmp_path, "sku;store;2024-01-01;2024-01-08\nA;N;1.234;950\n")
    with pytest.raises(SourceError, match=r"2024-01-01 has only numbers such as 1.234"):
        read(store, "history", wide, SALES, wide=True)


def test_when_rows_were_ingested_is_recorded(store, tmp_path):
    before = datetime.now().astimezone()
    read(store, "history", with_lines(tmp_path, "9,A,2024-01-01,-1,1"), SALES)
    assert before <= store.scan(QUARANTINE).collect()["ingested_at"].item() <= datetime.now().astimezone()


def test_a_dry_run_shows_rows_as_they_would_be_stored_and_what_would_not_and_writes_nothing(store, tmp_path):
    text = "sku;store;date;units;price\n" + "1;A;1.1.2024;3;1,5\n" * 8 + "1;B;1.1.2024;-3;1,5\n"
    source, mapping = csv(tmp_path, text), {"week": "date"}
    result = read(store, "history", source, SALES, mapping=mapping, max_bad_share=0.5, dry_run=True)
    assert result.preview["dialect"] == "CSV, semicolon, utf-8, decimal comma"
    assert result.preview["columns"] == mapping
    assert result.preview["rows"] == [{"sku": "1", "store": "A", "week": MONDAY, "units": 3.0, "price": 1.5}]
    assert [row["rule"] for row in result.preview["quarantine"]] == ["units|min"]
    assert (result.read, result.accepted, result.merged, result.quarantined) == (9, 1, 7, 1)
    assert not Path(store.uri).exists()


def test_blanks_around_a_key_do_not_belong_to_it_and_alone_are_none(store, tmp_path):
    skus, weeks = [" A1", "A1 ", "B2", "  "], ["2024-01-01", "2024-01-08"] * 2
    frame = pl.DataFrame({"sku": skus, "store": " N", "week": weeks, "units": 1.0})
    frame.write_parquet(tmp_path / "a.parquet")
    result = read(store, "history", str(tmp_path / "a.parquet"), SALES, max_bad_share=0.5, dry_run=True)
    assert [(row["sku"], row["store"]) for row in result.preview["rows"]] == [
        ("A1", "N"),
        ("A1", "N"),
        ("B2", "N"),
    ]
    assert [row["rule"] for row in result.preview["quarantine"]] == ["sku|min_length"]


@pytest.mark.parametrize(("unit", "other"), [(" bar", " kPa"), (" €", " $")])
def test_a_unit_is_noted_and_another_one_in_the_next_file_is_refused(store, tmp_path, unit, other):
    header = "sku,store,week,units,price\n"
    csv(tmp_path / "files", f"{header}A,N,2024-01-01,1,20{unit}\n", "a.csv")
    result = read(store, "history", str(tmp_path / "files"), SALES, dry_run=True)
    assert result.alike == (
        f"history: {unit.strip()} in the numbers of 'price' is left out. Other files must have the same unit.",
    )
    csv(tmp_path / "files", f"{header}A,N,2024-01-08,1,2000{other}\n", "b.csv")
    with pytest.raises(
        SourceError, match=rf"b\.csv: .* 'price' are in {re.escape(other.strip())}, those of a\.csv in"
    ):
        read(store, "history", str(tmp_path / "files"), SALES)


def test_a_unit_of_earlier_files_is_the_unit_of_the_next_ones(store, tmp_path):
    header = "sku,store,week,units,Price\n"
    read(store, "history", csv(tmp_path, f"{header}A,N,2024-01-01,1,20 bar\n", "a.csv"), SALES)
    with pytest.raises(SourceError, match=r"b\.csv: .* 'Price' are in kPa, those of earlier files in bar"):
        read(store, "history", csv(tmp_path, f"{header}A,N,2024-01-08,1,2000 kPa\n", "b.csv"), SALES)
    plain = read(store, "history", csv(tmp_path, f"{header}A,N,2024-01-08,1,21\n", "c.csv"), SALES)
    assert plain.alike == (
        "history: the numbers of 'Price' have no unit; those of earlier files are in bar.",
    )
    same = csv(tmp_path, f"{header}A,N,2024-01-15,1,22 bar\n".replace("Price", "price"), "d.csv")
    assert "is left out" in read(store, "history", same, SALES).alike[0]
    assert table(store)["Price"].to_list() == [20.0, 21.0, 22.0]
    plan = csv(tmp_path, "sku,store,week,price\nA,N,2024-01-22,23 kPa\n", "plan.csv")
    with pytest.raises(SourceError, match="'Price' are in kPa, those of earlier files in bar"):
        read(store, "plan", plan, SALES)
    other = Store(str(tmp_path / "other"))
    with pytest.raises(SourceError, match="'price' are in kPa, those of earlier files in bar"):
        ingest.fn(SALES, other, {"history": same, "plan": plan}, {}, 4, 0.05)


@pytest.mark.parametrize("name", ["#", "No.", "__index_level_0__"])
def test_a_column_that_counts_the_rows_is_ignored(store, tmp_path, name):
    rows = sales().with_row_index(name)
    result = read(store, "history", csv(tmp_path, rows), SALES)
    assert result.ignored == (name,)
    assert name not in table(store).columns
    other = read(
        store, "history", csv(tmp_path, rows.reverse().with_columns(units=pl.col("units") + 1)), SALES
    )
    assert other.ignored == ()


def test_a_column_that_names_another_unit_in_another_file_is_refused(store, tmp_path):
    header = "sku,store,week,units,temperature"
    for number, unit in enumerate("CF"):
        csv(tmp_path / "in", f"{header} [°{unit}]\n1,A,2024-01-{8 * number + 1:02},1,20\n", f"{number}.csv")
    with pytest.raises(
        SourceError, match=r"1\.csv: .* 'temperature' are in °C, those of 0\.csv in °F|0\.csv in °C"
    ):
        read(store, "history", str(tmp_path / "in"), SALES)
    read(store, "history", str(tmp_path / "in" / "0.csv"), SALES)
    with pytest.raises(SourceError, match="'temperature' are in °F, those of earlier files in °C"):
        read(store, "history", str(tmp_path / "in" / "1.csv"), SALES)


@pytest.mark.parametrize("hours", [(23, 22), (16, 16)])
def test_midnights_of_another_zone_are_not_of_the_day_before(store, tmp_path, hours):
    rows = [f"1,A,2024-01-{day}T{hour}:00:00.000Z,5" for day, hour in zip((14, 21), hours, strict=True)]
    with pytest.raises(
        ContractError, match=r"midnight of 2024-01-15 in a time zone east.*Write the local day"
    ):
        read(store, "history", below_header(tmp_path, *rows), SALES)
    rows = [row.replace(f"T{hour}:", "T00:") for row, hour in zip(rows, hours, strict=True)]
    read(store, "history", below_header(tmp_path, *rows), SALES)
    assert table(store)["week"].dt.to_string().to_list() == ["2024-01-14", "2024-01-21"]


def test_of_days_with_several_sales_it_is_said_first_that_they_are_no_weeks(store, tmp_path):
    rows = [f"1,A,2024-01-{day},{units}" for day in (15, 16, 17) for units in (1, 2)]
    with pytest.raises(ContractError, match=r"(?s)different weekdays.*--daily monday"):
        read(store, "history", below_header(tmp_path, *rows), SALES)


@pytest.mark.parametrize("skus", [("5%", "10%"), ("1,5", "2,5"), ("1 €", "2 €")])
def test_names_that_could_be_numbers_stay_as_they_were_written(store, tmp_path, skus):
    rows = [f"{sku};A;2024-01-01;1,5;2,99 €" for sku in skus]
    (tmp_path / "sales.csv").write_text("\n".join(["Article;store;week;units;price", *rows]))
    read(store, "history", str(tmp_path / "sales.csv"), SALES, mapping={"sku": "Article"})
    stored = store.scan(HISTORY).select("sku", "units", "price").collect().rows()
    assert sorted(stored) == [(sku, 1.5, 2.99) for sku in sorted(skus)]


def test_commas_in_names_say_nothing_about_decimals(store, tmp_path):
    (tmp_path / "sales.csv").write_text(
        "sku;store;week;units\n1,5;A;2024-01-01;1.234\n2,5;A;2024-01-01;2.345\n"
    )
    with pytest.raises(SourceError, match=r"units has only numbers such as 1\.234"):
        read(store, "history", str(tmp_path / "sales.csv"), SALES)
