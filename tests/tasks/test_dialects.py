"""Any table, written in any of the dialects, comes back the same."""

import gzip
import io
import json
import zipfile

import polars as pl
import pytest
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from models.contracts import ROW, accept
from models.sales import SALES
from models.sales.contracts import Stores
from tasks.ingest.columns import rename
from tasks.ingest.decimals import with_points
from tasks.ingest.sources import SourceError, read

NAMES = ("sku", "store name", "units")
VALUES = st.text("abzäöß 0019.", min_size=1, max_size=6).map(lambda text: f"x{text}y")
TABLES = st.lists(st.tuples(VALUES, VALUES, st.integers(0, 10**6).map(str)), min_size=1, max_size=8)


def rows(path) -> pl.DataFrame:
    return pl.concat([source.rows() for source in read(str(path))], how="diagonal_relaxed")


@settings(max_examples=120)
@given(
    table=TABLES,
    separator=st.sampled_from(",;\t|"),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"]),
    index=st.booleans(),
    quote=st.sampled_from(["", '"']),
    packed=st.booleans(),
)
def test_a_table_comes_back_the_same_from_any_dialect(
    tmp_path_factory, table, separator, line_end, encoding, index, quote, packed
):
    lines = [("", *NAMES), *((str(i), *row) for i, row in enumerate(table))]
    cells = [[f"{quote}{cell}{quote}" for cell in line] for line in lines]
    text = "".join(separator.join(line if index else line[1:]) + line_end for line in cells)
    path = tmp_path_factory.mktemp("dialect") / "table.csv"
    content = text.encode(encoding)
    path.write_bytes(gzip.compress(content) if packed else content)
    frame = rows(path)
    assert frame.columns == list(NAMES)
    assert frame.rows() == table


@pytest.mark.parametrize(
    "name", ["a.csv.gz", "a.csv.zst", "a.zip", "a.arrow", "a.jsonl", "a.xlsx", "a.parquet"]
)
def test_a_table_comes_back_the_same_from_any_container(tmp_path, name):
    table = pl.DataFrame({"sku": ["A", "B"], "note": ["first", "second"]})
    plain = table.write_csv().encode()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("folder/a.csv", plain)
    writers = {
        "a.csv.gz": lambda path: path.write_bytes(gzip.compress(plain)),
        "a.csv.zst": lambda path: table.lazy().sink_csv(path, compression="zstd"),
        "a.zip": lambda path: path.write_bytes(archive.getvalue()),
        "a.arrow": table.write_ipc,
        "a.jsonl": table.write_ndjson,
        "a.xlsx": lambda path: path.write_bytes(_xlsx(Sales=table)),
        "a.parquet": table.write_parquet,
    }
    writers[name](tmp_path / name)
    assert rows(tmp_path / name).rows() == table.rows()


def _cell(text: str) -> str:
    """A cell of a sheet: a number where the text is one without leading zeros."""
    if not text.strip():
        return "<c/>"
    is_number = text.isdigit() and not text.startswith("0")
    return f"<c><v>{text}</v></c>" if is_number else f'<c t="inlineStr"><is><t>{text}</t></is></c>'


def _xlsx(**sheets: pl.DataFrame) -> bytes:
    """The smallest Excel file that holds tables of text and whole numbers."""
    cells = [
        "".join("<row>" + "".join(map(_cell, line)) + "</row>" for line in [table.columns, *table.rows()])
        for table in sheets.values()
    ]
    sheet_elements = "".join(
        f'<sheet name="{name}" sheetId="{i}" r:id="r{i}"/>' for i, name in enumerate(sheets, 1)
    )
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    links = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    packages = "http://schemas.openxmlformats.org/package/2006"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{packages}/content-types"/>',
        "_rels/.rels": f'<Relationships xmlns="{packages}/relationships"><Relationship Id="r1" '
        f'Type="{links}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{links}"><sheets>{sheet_elements}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{packages}/relationships">'
        + "".join(
            f'<Relationship Id="r{i}" Type="{links}/worksheet" Target="worksheets/sheet{i}.xml"/>'
            for i in range(1, len(sheets) + 1)
        )
        + "</Relationships>",
    }
    for i, rows_of_sheet in enumerate(cells, 1):
        sheet = f'<worksheet xmlns="{main}"><sheetData>{rows_of_sheet}</sheetData></worksheet>'
        parts[f"xl/worksheets/sheet{i}.xml"] = sheet
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return content.getvalue()


READINGS = [{"device": "a", "value": 1}, {"device": "ü", "value": 2}]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(READINGS, indent=2, ensure_ascii=False),
        json.dumps([READINGS[:1], READINGS[1:]]),
        json.dumps({name: {str(i): row[name] for i, row in enumerate(READINGS)} for name in READINGS[0]}),
        "\r\n".join(map(json.dumps, READINGS)),
        json.dumps({"value": READINGS}),
        "\n".join(json.dumps({"records": [one]}) for one in READINGS),
    ],
    ids=["indented", "lists in a list", "columns of pandas", "lines", "one member", "lines of lists"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_is_read_however_it_is_arranged(tmp_path, text, encoding):
    content = text.encode(encoding)
    for packed in (content, gzip.compress(content)):
        (tmp_path / "a.json").write_bytes(packed)
        assert rows(tmp_path / "a.json").to_dicts() == READINGS


def test_rows_of_separators_alone_are_none(tmp_path):
    (tmp_path / "a.csv").write_text("sku,units\nA,1\n,\nB,\n\n,\n")
    assert rows(tmp_path / "a.csv").rows() == [("A", "1"), ("B", None)]


def test_blanks_divide_values_where_nothing_else_does_and_a_first_line_of_numbers_is_no_header(tmp_path):
    (tmp_path / "a.txt").write_text("unit cycle  s1 \n1 1  0.5 \n1 2 -0.7\n")
    assert rows(tmp_path / "a.txt").to_dicts()[1] == {"unit": "1", "cycle": "2", "s1": "-0.7"}
    (tmp_path / "a.txt").write_text("1 1 -0.5\n1 2  0.7\n")
    assert rows(tmp_path / "a.txt").columns == ["column 1", "column 2", "column 3"]
    assert rows(tmp_path / "a.txt").rows() == [("1", "1", "-0.5"), ("1", "2", "0.7")]
    (tmp_path / "a.txt").write_text("time\n2024-01-01 00:00:00\n")
    assert rows(tmp_path / "a.txt").columns == ["time"]


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("cp1254", "mağaza"),
        ("cp1250", "Łódź"),
        ("cp1251", "Москва"),
        ("cp850", "Zürich"),
        ("mac_roman", "Zürich"),
        ("cp932", "東京"),
    ],
)
def test_text_that_is_no_western_text_asks_for_its_encoding(tmp_path, encoding, name):
    (tmp_path / "a.csv").write_text(f"sku;store\nA;{name}\n", encoding)
    with pytest.raises(SourceError, match=r"a\.csv: this text is neither in UTF-8 .*--encoding"):
        rows(tmp_path / "a.csv")
    (source,) = read(str(tmp_path / "a.csv"), encoding)
    assert source.rows().rows() == [("A", name)]
    (tmp_path / "a.csv").write_text("sku;store\nA;ü\n")
    (source,) = read(str(tmp_path / "a.csv"), encoding)
    assert source.rows().rows() == [("A", "ü")]


@pytest.mark.parametrize(
    "word", ["crème “x” l’œuf", "¿qué? ÁRBOL", "5 m³/h µg £5", "GRÜNÄÖ™", "Ålesund ÆØÅ", "São Citroën avô"]
)
def test_western_text_is_read_without_an_encoding(tmp_path, word):
    (tmp_path / "a.csv").write_text(f"sku;store\nA;{word}\n", "cp1252")
    assert rows(tmp_path / "a.csv").rows() == [("A", word)]


def test_names_that_occur_twice_stand_behind_those_of_their_groups_in_the_line_above(tmp_path):
    header = [",,Pump 1,,Pump 2,", "date,time,load,speed,load,speed", "2024-01-01,00:00,1,2,3,4"]
    (tmp_path / "a.csv").write_text("\n".join(header))
    names = ["date", "time", "Pump 1 load", "Pump 1 speed", "Pump 2 load", "Pump 2 speed"]
    assert rows(tmp_path / "a.csv").columns == names
    groups = [" ", "  ", "Pump 1", "   ", "Pump 2", "    "]
    cells = {group: [line.split(",")[n] for line in header[1:]] for n, group in enumerate(groups)}
    (tmp_path / "a.xlsx").write_bytes(_xlsx(Readings=pl.DataFrame(cells)))
    assert rows(tmp_path / "a.xlsx").columns == names


def test_of_two_lines_of_names_the_header_is_the_one_that_also_names_the_first_column(tmp_path):
    (tmp_path / "a.csv").write_text(",Pump 1,Pump 2\ntime,load,speed\n2024-01-01,1,2\n")
    assert rows(tmp_path / "a.csv").columns == ["time", "load", "speed"]


def test_a_line_above_the_header_may_have_more_cells(tmp_path):
    lines = [
        '"TOA5","logger","x","1"',
        "time,RECORD,speed",
        "TS,RN,m/s",
        ",,Avg",
        "2024-01-01,1,2.5",
        "2024-01-02,2,3.5",
    ]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    assert rows(tmp_path / "a.csv").row(0, named=True) == {
        "time": "2024-01-01",
        "RECORD": "1",
        "speed": "2.5",
    }


def test_quotes_in_a_name_are_doubled_in_the_file_alone(tmp_path):
    (tmp_path / "a.csv").write_text('time,"temp {host=""a""}"\n2024-01-01,1\n')
    assert rows(tmp_path / "a.csv").columns == ["time", 'temp {host="a"}']


def test_weeks_with_points_are_no_decimals(tmp_path):
    (tmp_path / "a.csv").write_text("store;week;area\nA;05.2024;1.234\nB;10.2024;1,5\n")
    assert read_stores(tmp_path / "a.csv")["area"].to_list() == ["1234", "1.5"]
    (tmp_path / "a.csv").write_text("store;week;area;rent\nA;05.2024;1.234;5,5\nB;10.2024;2.345;6,5\n")
    assert read_stores(tmp_path / "a.csv")["area"].to_list() == ["1234", "2345"]


def test_a_page_that_is_called_a_sheet_is_told(tmp_path):
    (tmp_path / "a.xls").write_text("<html><table><tr><td>sku</td></tr></table></html>")
    with pytest.raises(SourceError, match=r"a\.xls: this is HTML, XML or PDF"):
        rows(tmp_path / "a.xls")


def test_of_an_excel_file_with_several_sheets_one_is_named(tmp_path):
    sales, plan = pl.DataFrame({"sku": ["A"]}), pl.DataFrame({"sku": ["B"]})
    book = tmp_path / "book.xlsx"
    book.write_bytes(_xlsx(Sales=sales, Plan=plan))
    assert rows(f"{book}#Plan").rows() == [("B",)]
    with pytest.raises(SourceError, match=r"2 sheets with rows: Sales, Plan.*for example sales\.xlsx#Sales"):
        rows(book)
    with pytest.raises(SourceError, match="Expected 'Sums' among them"):
        rows(f"{book}#Sums")


def test_a_hidden_sheet_is_not_read_beside_a_visible_one(tmp_path):
    sales, lists = pl.DataFrame({"sku": ["A"]}), pl.DataFrame({"units": ["pieces"]})
    (tmp_path / "a.xlsx").write_bytes(_xlsx(**{"Sales": sales, 'Lists" state="hidden': lists}))
    assert rows(tmp_path / "a.xlsx").rows() == [("A",)]
    assert rows(f"{tmp_path}/a.xlsx#Lists").rows() == [("pieces",)]


def test_a_title_above_the_header_of_a_sheet_is_no_row(tmp_path):
    cells = {
        "Report": ["", "sku", "A", ""],
        " ": ["", "week", "2024-01-01", ""],
        "  ": ["", "units", "3", ""],
    }
    (tmp_path / "a.xlsx").write_bytes(_xlsx(Sales=pl.DataFrame(cells)))
    assert rows(tmp_path / "a.xlsx").to_dicts() == [{"sku": "A", "week": "2024-01-01", "units": 3}]


def test_a_number_is_the_name_of_a_column_of_a_sheet(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(_xlsx(Sales=pl.DataFrame({"sku": ["A"], "202405": ["3"], "": ["x"]})))
    assert rows(tmp_path / "a.xlsx").to_dicts() == [{"sku": "A", "202405": 3}]


@pytest.mark.parametrize(
    ("prices", "numbers"),
    [
        (["9,50 €", "1.010,50 €"], ["9.50", "1010.50"]),
        (["$9.50", "$1,010.50"], ["9.50", "1,010.50"]),
        (["CHF 9", "CHF 10"], ["9", "10"]),
        (["₹ 9", "₹ 10"], ["9", "10"]),
        (["Rs. 9", "Rs. 10"], ["9", "10"]),
        (["R$9", "R$10"], ["9", "10"]),
        (["9 SEK", "10 SEK"], ["9", "10"]),
        (["9 €", "10 $"], ["9 €", "10 $"]),
    ],
)
def test_currencies_in_text_that_is_not_of_csv_are_dropped_where_all_are_the_same(tmp_path, prices, numbers):
    table = pl.DataFrame({"sku": ["A", "B"], "price": prices})
    (tmp_path / "a.xlsx").write_bytes(_xlsx(Sales=table))
    table.write_json(tmp_path / "a.json")
    table.write_ndjson(tmp_path / "a.jsonl")
    table.write_parquet(tmp_path / "a.parquet")
    table.write_ipc(tmp_path / "a.arrow")
    write_deltalake(tmp_path / "delta", table)
    for name in ("a.xlsx", "a.json", "a.jsonl", "a.parquet", "a.arrow", "delta"):
        assert rows(tmp_path / name)["price"].to_list() == numbers


def test_an_apostrophe_before_all_digits_of_a_column_marks_text(tmp_path):
    (tmp_path / "a.csv").write_text("sku,note\n'007,'90s\n'008,mix\n")
    assert rows(tmp_path / "a.csv").rows() == [("007", "'90s"), ("008", "mix")]


def test_a_header_below_comments_begins_like_them(tmp_path):
    (tmp_path / "a.csv").write_text(
        "# Turbine: 1, north\n#\n# Date and time,Power\n2024-01-01,5\n2024-01-02,6\n"
    )
    assert rows(tmp_path / "a.csv").columns == ["Date and time", "Power"]
    (tmp_path / "b.csv").write_text("# of items,Power\n2024-01-01,5\n")
    assert rows(tmp_path / "b.csv").columns == ["# of items", "Power"]


def test_decimal_commas_are_numbers_and_text_with_commas_stays(tmp_path):
    (tmp_path / "a.csv").write_text("sku;note;price\nA;so, so;1,5\nB;2.0;1.234,75\n")
    assert rows(tmp_path / "a.csv").rows() == [("A", "so, so", "1.5"), ("B", "2.0", "1234.75")]


@settings(max_examples=40)
@given(
    numbers=st.lists(st.integers(-(10**9), 10**9).map(lambda n: n / 100), min_size=1, max_size=8),
    thousands=st.sampled_from(["", ".", "'", "\u00a0", "\u202f", " "]),
)
def test_numbers_with_decimal_commas_come_back_the_same(tmp_path_factory, numbers, thousands):
    cells = [f"{n:,.2f}".replace(",", "|").replace(".", ",").replace("|", thousands) for n in numbers]
    path = tmp_path_factory.mktemp("numbers") / "a.csv"
    path.write_text("sku;units\n" + "".join(f"A;{cell}\n" for cell in cells), encoding="utf-8")
    assert rows(path)["units"].cast(pl.Float64).to_list() == numbers


def test_thousands_are_told_by_the_other_numbers_of_their_column(tmp_path):
    (tmp_path / "a.csv").write_text("version;price\n1.234;1.234\n2.345;1,5\n")
    assert rows(tmp_path / "a.csv").rows() == [("1.234", "1234"), ("2.345", "1.5")]


@pytest.mark.parametrize("before", ["sep=;\n", "Report of sales\n\nof January\n", "\n\n"])
def test_lines_before_a_header_are_no_rows(tmp_path, before):
    (tmp_path / "A.CSV").write_text(f"{before}sku;note\nA;1\n")
    assert rows(tmp_path).to_dicts() == [{"sku": "A", "note": "1"}]


NUMBERS = {
    "12 %": "12", "$1,234.50": "1234.50", "(5)": "-5", "7-": "-7", "−8": "-8", "1'234": "1234", "1 234 567.5": "1234567.5",
    "1,23,456": "123456", "1,00,00,000.5": "10000000.5",
}  # fmt: skip


@pytest.mark.parametrize("cell", NUMBERS)
def test_numbers_are_read_as_people_write_them(tmp_path, cell):
    (tmp_path / "a.csv").write_text(f'store;area\nA;"{cell}"\nB;"{cell}"\n')
    assert read_stores(tmp_path / "a.csv")["area"].to_list() == [NUMBERS[cell]] * 2


def test_a_currency_is_left_out_of_numbers_with_decimal_commas_and_not_of_names(tmp_path):
    (tmp_path / "a.csv").write_text(
        "store;pack;area\nA;12 %;1.234,50 €\nB;12 kg;-2,00 €\n", encoding="cp1252"
    )
    assert read_stores(tmp_path / "a.csv").rows() == [("A", "12 %", "1234.50"), ("B", "12 kg", "-2.00")]


def test_a_unit_that_all_numbers_of_a_column_have_is_left_out_and_not_of_names(tmp_path):
    (tmp_path / "a.csv").write_text(
        "store;pressure;speed;mixed;code\n1 Nord;20,5 bar;3 km/h;5 m;1e5\n2 Nord;n/a;1.200 km/h;5 km;2e5\n"
    )
    assert read_stores(tmp_path / "a.csv").rows() == [
        ("1 Nord", "20.5", "3", "5 m", "1e5"),
        ("2 Nord", "n/a", "1200", "5 km", "2e5"),
    ]


def test_a_unit_without_a_blank_is_left_out_of_what_must_be_a_number_and_may_be_a_part_of_a_word(tmp_path):
    (tmp_path / "a.csv").write_text("sku,store,week,units,size\n1A,N,2024-01-01,5pcs,38EU\n")
    (source,) = read(str(tmp_path / "a.csv"))
    history = with_points(source, SALES.tables["history"], {}, None).rows()
    assert history.rows() == [("1A", "N", "2024-01-01", "5", "38EU")]


@pytest.mark.parametrize(("name", "unit"), [("Longitude", " W"), ("site_lat", " °S")])
def test_coordinates_that_would_lose_their_sign_are_refused(tmp_path, name, unit):
    (tmp_path / "a.csv").write_text(f"store,{name},power\nA,8.54{unit},5 W\nB,9.1{unit},6 W\n")
    with pytest.raises(
        SourceError, match=rf"a\.csv: '{name}' has numbers with '{unit.strip()}'.*such as -8\.54"
    ):
        read_stores(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text(f"store,{name},power\nA,8.54 E,5 W\n")
    assert read_stores(tmp_path / "a.csv").rows() == [("A", "8.54", "5")]


def test_zeros_may_lack_the_sign_of_all_other_numbers(tmp_path):
    (tmp_path / "a.csv").write_text("store,discount,pressure\nA,10%,0.0\nB,0,1.5 bar\n")
    assert read_stores(tmp_path / "a.csv").rows() == [("A", "10", "0.0"), ("B", "0", "1.5")]


def test_two_currencies_in_a_column_are_no_numbers(tmp_path):
    (tmp_path / "a.csv").write_text("store;area\nA;5 €\nB;5 $\n")
    assert read_stores(tmp_path / "a.csv")["area"].to_list() == ["5 €", "5 $"]


def test_numbers_such_as_a_thousand_with_a_comma_are_asked_for_unless_others_tell(tmp_path):
    (tmp_path / "a.csv").write_text('store,area\n1 234,"1,234"\n2 345,987\n')
    assert read_stores(tmp_path / "a.csv").rows() == [("1 234", "1234"), ("2 345", "987")]
    (tmp_path / "a.csv").write_text('store,area\nA,"1,234"\nB,"2,345"\n')
    with pytest.raises(SourceError, match=r"area has only numbers such as 1,234.*--decimals"):
        read_stores(tmp_path / "a.csv")
    assert read_stores(tmp_path / "a.csv", "point")["area"].to_list() == ["1234", "2345"]
    assert read_stores(tmp_path / "a.csv", "comma")["area"].to_list() == ["1.234", "2.345"]


def test_numbers_with_a_sign_and_zeros_before_a_comma_and_a_digit_are_asked_for(tmp_path):
    (tmp_path / "a.csv").write_text('store,area\nA,"+0100,1"\nB,"+1100,5"\n')
    with pytest.raises(SourceError, match=r"area has numbers such as \+0100,1.*--decimals comma"):
        read_stores(tmp_path / "a.csv")
    assert read_stores(tmp_path / "a.csv", "comma")["area"].to_list() == ["+0100.1", "+1100.5"]


@pytest.mark.parametrize(
    ("last", "expected"),
    [('B,"1,234"', "1234"), ("B;1.234,5", "1234.5"), ("B,5-", "-5"), ("B;12,5", "12.5")],
)
def test_numbers_far_below_the_header_are_read_as_well(tmp_path, last, expected):
    separator = last[1]
    lines = [f"A{n}{separator}{n}" for n in range(300)]
    (tmp_path / "a.csv").write_text("\n".join([f"store{separator}area", *lines, last]))
    assert read_stores(tmp_path / "a.csv")["area"].to_list() == [*map(str, range(300)), expected]


def test_a_number_far_below_the_header_that_could_be_two_is_asked_for(tmp_path):
    lines = [f"A{n};{n}" for n in range(300)]
    (tmp_path / "a.csv").write_text("\n".join(["store;area", *lines, "B;1.234"]))
    with pytest.raises(SourceError, match=r"area has only numbers such as 1\.234.*--decimals"):
        read_stores(tmp_path / "a.csv")


def test_decimal_commas_in_quotes_between_commas_are_read_where_they_divide_no_thousands(tmp_path):
    (tmp_path / "a.csv").write_text('store,area,rent\nA,"2,5","1.234"\nB,"0,125",5\n')
    assert read_stores(tmp_path / "a.csv").rows() == [("A", "2.5", "1234"), ("B", "0.125", "5")]
    (tmp_path / "a.csv").write_text('store,area,sizes\nA,2.5,"1,2"\n')
    assert read_stores(tmp_path / "a.csv").rows() == [("A", "2.5", "1,2")]


def test_a_file_with_decimal_points_and_commas_makes_no_thousands_of_points(tmp_path):
    (tmp_path / "a.csv").write_text("store;area;size\nA;2.345;1,5\nB;2.50;1,5\n")
    assert read_stores(tmp_path / "a.csv")["area"].to_list() == ["2.345", "2.50"]


def read_stores(path, decimals=None) -> pl.DataFrame:
    (source,) = read(str(path))
    return with_points(source, SALES.tables["stores"], {}, decimals).rows()


def test_the_header_is_the_fullest_line_above_the_numbers(tmp_path):
    table = "sku,store,week,units\nA,N,2024-01-01,3\n"
    for title in ("Report,,,\nof,2024-03-01,,\n,,,\n", "Key,,When,\n", 'Report\n"a, b"\n'):
        (tmp_path / "a.csv").write_text(title + table)
        assert rows(tmp_path / "a.csv").rows() == [("A", "N", "2024-01-01", "3")]
    (tmp_path / "a.csv").write_text("sku,,brand\nA,B,C\n")
    assert rows(tmp_path / "a.csv").rows() == [("A", "C")]
    (tmp_path / "a.csv").write_text("Sales,,\nsku,2024-01-01,2024-01-08\nA,1,2\n")
    assert rows(tmp_path / "a.csv").columns == ["sku", "2024-01-01", "2024-01-08"]


def test_a_header_that_comes_again_is_no_row(tmp_path):
    (tmp_path / "a.csv").write_text("sku,units \nA,1\n\ufeffsku,units \nsku,2\n")
    assert rows(tmp_path / "a.csv").rows() == [("A", "1"), ("sku", "2")]


def test_blanks_after_separators_and_what_excel_takes_as_text_are_no_part_of_values(tmp_path):
    (tmp_path / "a.csv").write_text('sku, store, note\n"=""007""", 1, a\n"=""008""", 2,b\n')
    assert rows(tmp_path / "a.csv").rows() == [("007", "1", " a"), ("008", "2", "b")]


@pytest.mark.parametrize("orient", ["split", "table", "records", "columns"])
def test_json_is_read_however_pandas_writes_it(tmp_path, orient):
    table = pl.DataFrame({"sku": ["A", "B"], "units": [1, 2]})
    table.to_pandas().to_json(tmp_path / "a.json", orient=orient)
    assert rows(tmp_path / "a.json").select("sku", "units").rows() == [("A", 1), ("B", 2)]


def test_what_excel_and_macos_leave_in_a_folder_is_no_table(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("a.csv", "._a.csv", "x/__MACOSX/a.csv", "b.csv"):
            archive.writestr(name, f"sku\n{name}\n")
    for name in ("._a.csv", "~$a.xlsx", ".a.csv"):
        (tmp_path / name).write_bytes(b"\0\5\x16")
    assert rows(tmp_path).rows() == [("a.csv",), ("b.csv",)]
    assert rows(f"{tmp_path}/a.zip#b.csv").rows() == [("b.csv",)]
    with pytest.raises(SourceError, match=r"holds the tables a\.csv, b\.csv. Expected 'c\.csv'"):
        rows(f"{tmp_path}/a.zip#c.csv")


def test_members_of_structs_and_deep_documents_are_columns(tmp_path):
    deep = {"status": "ok", "data": {"items": [{"sku": "A", "of": {"store": "N"}}]}}
    (tmp_path / "a.json").write_text(json.dumps(deep))
    assert rows(tmp_path / "a.json").to_dicts() == [{"status": "ok", "sku": "A", "of.store": "N"}]
    pl.DataFrame([{"sku": "A", "of": {"store": "N"}}]).write_parquet(tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet").to_dicts() == [{"sku": "A", "of.store": "N"}]


def test_blocks_of_annotated_csv_may_have_different_columns(tmp_path):
    one = "#group,false,true\n#datatype,string,string\n#default,_result,\n,_value,host\n,1.5,gw\n\n"
    two = "#group,false\n#datatype,string\n#default,_result\n,_value\n,2.5\n\n"
    (tmp_path / "a.csv").write_text((one + two + one.replace("1.5", "3.5")).replace("\n", "\r\n"))
    frame = rows(tmp_path / "a.csv").sort("_value")
    assert frame.select("_value", "host").rows() == [("1.5", "gw"), ("2.5", None), ("3.5", "gw")]


def test_a_column_that_is_there_twice_is_refused_by_its_name(tmp_path):
    (tmp_path / "a.csv").write_text("sku,units,units \nA,1,2\n")
    with pytest.raises(SourceError, match=r"a\.csv: column 'units' appears twice"):
        rows(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "text", ['{"sku":"A","units":1,"units":2}\n{"sku":"B","units":3}\n', '[{"a":{"units":1,"units":2}}]']
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_member_that_an_object_has_twice_is_refused_by_its_name(tmp_path, text, encoding):
    (tmp_path / "a.json").write_text(text, encoding)
    with pytest.raises(SourceError, match=r"a\.json: column 'units' appears twice"):
        rows(tmp_path / "a.json")


def test_text_with_the_separator_in_it_needs_quotes(tmp_path):
    (tmp_path / "a.csv").write_text("time,error\n1,door open\n2,axis 3, retry\n")
    with pytest.raises(
        SourceError, match=r"a\.csv: cannot be read: line 3 has more fields than the header.* quotes"
    ):
        rows(tmp_path / "a.csv")


def test_a_row_with_too_many_fields_is_named_by_its_line_also_below_a_title_and_in_a_compressed_file(
    tmp_path,
):
    text = 'Errors of May\n\ntime;error\n1;"door\nopen"\n' + "2;axis\n" * 300 + "3;axis 3; retry\n"
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(SourceError, match=r"line 306 has more fields"):
        rows(tmp_path / "a.csv.gz")


def test_a_workbook_with_a_password_is_told_as_such(tmp_path):
    name = "EncryptedPackage".encode("utf-16-le")
    (tmp_path / "a.xlsx").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + name + bytes(512))
    with pytest.raises(SourceError, match=r"a\.xlsx: this Excel file needs a password.* Save it without"):
        rows(tmp_path / "a.xlsx")


def test_annotations_of_influx_are_no_rows(tmp_path):
    block = (
        "#datatype,string,long,double\n#group,false,false,false\n#default,_result,,\n,result,table,_value\n"
    )
    (tmp_path / "a.csv").write_text(f"{block},,0,1.5\n,,0,2.5\n\n{block},,1,3.5\n")
    assert rows(tmp_path / "a.csv")["_value"].to_list() == ["1.5", "2.5", "3.5"]


def test_members_of_members_of_json_lines_are_columns(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"Body": {"t": 1.5}, "System": {"device": "d1"}}\n')
    assert rows(tmp_path / "a.jsonl").to_dicts() == [{"Body.t": 1.5, "System.device": "d1"}]


def test_a_binary_file_is_named_and_not_printed(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\x01\x00\x02\x00binary,file\n")
    with pytest.raises(SourceError, match=r"a\.csv: this is a binary file") as caught:
        rows(tmp_path / "a.csv")
    assert str(caught.value).isprintable()


def test_a_zip_in_a_zip_is_read_and_a_table_in_it_is_named(tmp_path):
    inner = io.BytesIO()
    for content, name, member in (
        (inner, "a.csv", "sku,units\nA,1\n"),
        (tmp_path / "a.zip", "month.zip", None),
    ):
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr(name, inner.getvalue() if member is None else member)
    (source,) = read(str(tmp_path / "a.zip"))
    assert (source.name, source.rows().rows()) == ("a.zip/month.zip/a.csv", [("A", "1")])


def test_a_zip_without_tables_and_a_damaged_one_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.md", "no table")
    (tmp_path / "b.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:20])
    for name, message in (("a.zip", "holds no table"), ("b.zip", "is damaged")):
        with pytest.raises(SourceError, match=message):
            rows(tmp_path / name)


def test_a_column_is_found_in_another_case_and_with_blanks(tmp_path):
    (tmp_path / "a.csv").write_text(" Machine ID #,Time\n1,2024-01-01\n")
    (source,) = read(str(tmp_path / "a.csv"))
    assert rename(source, {}, ["machine_id", "time"]).columns == ["machine_id", "time"]


def test_of_two_columns_that_are_alike_none_is_guessed(tmp_path):
    (tmp_path / "a.csv").write_text("Week,WEEK\n1,2\n")
    (source,) = read(str(tmp_path / "a.csv"))
    with pytest.raises(SourceError, match="column 'week' is missing"):
        rename(source, {}, ["week"])


def test_unknown_covariates_are_null_and_flags_are_one_and_zero():
    text = {"store": ["NA", "b", "c"], "m": ["5", "NA", "null"], "f": ["TRUE", "no", "0"]}
    raw = pl.DataFrame(text).with_row_index(ROW)
    accepted = accept(raw, Stores, ["store"], covariates=True, timezone=None)
    assert accepted.bad.is_empty()
    assert accepted.good.rows() == [("NA", 5.0, 1.0), ("b", None, 0.0), ("c", None, 0.0)]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('sku|name|units\nA|12" pan|1\nB|pan|2\nC|14" pan|3\n', '12" pan'),
        ('"sku","name","units"\n"A","12" pan","1"\n"B","pan","2"\n"C","14" pan","3"\n', '12" pan'),
        ('sku,units,name\nA,1,12"\nB,2,pan\nC,3,14"\n', '12"'),
        ('sku,units,name\nA,1,"12"" pan, black"\nB,2,"two\nlines"\nC,3,pan\n', '12" pan, black'),
    ],
)
def test_quotes_that_enclose_nothing_are_parts_of_a_value(tmp_path, text, name):
    (tmp_path / "a.csv").write_text(text)
    assert rows(tmp_path / "a.csv")["name"][0] == name
    assert rows(tmp_path / "a.csv")["units"].to_list() == ["1", "2", "3"]


def test_quotes_that_can_be_both_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text('sku,name\nA,"12" pan, black"\nB,"pan"\n')
    with pytest.raises(
        SourceError, match=r"quotes both enclose values and occur inside them.*Double or remove them"
    ):
        rows(tmp_path / "a.csv")


def test_a_separator_at_the_end_of_all_rows_is_no_column(tmp_path):
    (tmp_path / "a.csv").write_text("sku,units\nA,1,\nB,2,\n")
    assert rows(tmp_path / "a.csv").to_dicts() == [{"sku": "A", "units": "1"}, {"sku": "B", "units": "2"}]


def test_blanks_that_fill_a_column_to_its_width_are_no_text(tmp_path):
    (tmp_path / "a.csv").write_text("sku  |store|note\nA    |1000 |so so \nB    |20000|so\n")
    assert rows(tmp_path / "a.csv").rows() == [("A", "1000", "so so "), ("B", "20000", "so")]


def test_a_first_line_of_values_is_no_header(tmp_path):
    (tmp_path / "a.csv").write_text("SINUS,01-May-24 10:00:00,0.5\nSINUS,01-May-24 10:01:00,0.7\n")
    assert rows(tmp_path / "a.csv").columns == ["column 1", "column 2", "column 3"]
    assert rows(tmp_path / "a.csv").height == 2
    (tmp_path / "a.csv").write_text("2004-03-31 03:38:15.75 2 1 122.1\n2004-03-31 03:59:15.15 3 1 19.9\n")
    assert rows(tmp_path / "a.csv").height == 2


TABLE = [{"time": 1, "temp": 20.5}, {"time": 2, "temp": 21.5}]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"columns": ["time", "temp"], "rows": [[1, 20.5], [2, 21.5]]}, TABLE),
        ({"time": [1, 2], "temp": [20.5, 21.5]}, TABLE),
        (
            {"tables": [{"columns": [{"name": "time"}, {"name": "temp"}], "rows": [[1, 20.5], [2, 21.5]]}]},
            TABLE,
        ),
        (
            {"results": [{"series": [{"tags": {"host": "a"}, "columns": ["time"], "values": [[1], [2]]}]}]},
            [{"host": "a", "time": 1}, {"host": "a", "time": 2}],
        ),
        (
            {
                "frames": [
                    {
                        "schema": {"fields": [{"name": "time"}, {"name": "temp"}]},
                        "data": {"values": [[1, 2], [20.5, 21.5]]},
                    }
                ]
            },
            TABLE,
        ),
        (
            {
                "status": "success",
                "data": {"result": [{"metric": {"job": "a"}, "values": [[1, "0.5"], [2, "0.7"]]}]},
            },
            [{"job": "a", "time": 1, "value": "0.5"}, {"job": "a", "time": 2, "value": "0.7"}],
        ),
        (
            {"temp": [{"ts": 1, "value": 2}], "speed": [{"ts": 1, "value": 3}]},
            [{"member": "temp", "ts": 1, "value": 2}, {"member": "speed", "ts": 1, "value": 3}],
        ),
    ],
    ids=[
        "columns and rows",
        "lists of cells",
        "Log Analytics",
        "InfluxDB",
        "Grafana",
        "Prometheus",
        "ThingsBoard",
    ],
)
def test_tables_of_a_document_may_have_their_names_apart(tmp_path, document, expected):
    (tmp_path / "a.json").write_text(json.dumps(document))
    assert rows(tmp_path / "a.json").to_dicts() == expected


@pytest.mark.parametrize("separator", ["\n", ","])
def test_nan_in_json_is_unknown(tmp_path, separator):
    text = separator.join(f'{{"device": "a", "value": {value}}}' for value in ("1.5", "NaN", "-Infinity"))
    (tmp_path / "a.json").write_text(text if separator == "\n" else f"[{text}]")
    assert rows(tmp_path / "a.json")["value"].to_list() == [1.5, None, None]


@pytest.mark.parametrize("between", ["", "\n", " \n\n"])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("is_listed", [True, False])
def test_several_json_documents_one_after_another_are_the_rows_of_all(tmp_path, between, indent, is_listed):
    objects = [{"sku": "A", "units": 1}, {"sku": "B", "units": 2}, {"sku": "C", "units": 3}]
    documents = [json.dumps([one] if is_listed else one, indent=indent) for one in objects]
    (tmp_path / "a.json").write_text(between.join(documents))
    assert rows(tmp_path / "a.json").to_dicts() == objects


def test_json_that_is_damaged_is_told(tmp_path):
    (tmp_path / "a.json").write_text('[{"device": "a", "val')
    with pytest.raises(SourceError, match="this JSON is damaged: Unterminated string"):
        rows(tmp_path / "a.json")


@pytest.mark.parametrize("line", ["---,-----\n", "---, -----\n", "---+-----\n"])
def test_a_line_below_the_header_of_a_console_is_no_row(tmp_path, line):
    (tmp_path / "a.csv").write_text(f"sku,price\n{line}A,1.5\n-,\n")
    assert rows(tmp_path / "a.csv").rows() == [("A", "1.5"), ("-", None)]


def test_units_below_a_header_are_no_row(tmp_path):
    text = "time,speed,flow\n{}2024-01-01 10:00,1.5,2\n2024-01-01 11:00,1.7,3\n"
    (tmp_path / "a.csv").write_text(text.format("UTC;mm/s;m3/h\n").replace(",", ";").replace("1.5", "1,5"))
    assert rows(tmp_path / "a.csv").row(0) == ("2024-01-01 10:00", "1.5", "2")
    (tmp_path / "a.csv").write_text(text.format("UTC,mm/s,m3/h\n,Avg,Max\n"))
    assert rows(tmp_path / "a.csv").rows() == [
        ("2024-01-01 10:00", "1.5", "2"),
        ("2024-01-01 11:00", "1.7", "3"),
    ]
    sheet = pl.DataFrame({"time": ["UTC", "2024-01-01"], "speed": ["mm/s", "5"]})
    (tmp_path / "a.xlsx").write_bytes(_xlsx(Sales=sheet))
    assert rows(tmp_path / "a.xlsx").rows() == [("2024-01-01", 5)]


@pytest.mark.parametrize("line", ["2024-01-01 09:00,off,2\n", "2024-01-01 09:00,NA,\n", ",NA,NA\n", ",9,9\n"])
def test_a_first_row_without_all_its_numbers_is_a_row(tmp_path, line):
    (tmp_path / "a.csv").write_text(
        f"time,speed,flow\n{line}2024-01-01 10:00,1.5,2\n2024-01-01 11:00,1.7,3\n"
    )
    assert rows(tmp_path / "a.csv").height == 3


def test_pages_of_an_answer_are_read_line_by_line(tmp_path):
    pages = [[{"sku": "A"}, {"sku": "B"}], [], [{"sku": "C"}]]
    lines = [json.dumps({"page": number, "results": results}) for number, results in enumerate(pages)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert rows(tmp_path / "a.jsonl").rows() == [(0, "A"), (0, "B"), (2, "C")]


@pytest.mark.parametrize("text", ["12,-;3,50;5-", "12,--;3,50;-5", "12,– €;3,50 €;-5,00 €"])
def test_prices_without_cents_are_numbers(tmp_path, text):
    lines = (f"a;{price}" for price in text.split(";"))
    (tmp_path / "a.csv").write_text("\n".join(["store;price", *lines]))
    accepted = accept(
        rows(tmp_path / "a.csv").with_row_index(ROW), Stores, ["store"], covariates=True, timezone=None
    )
    assert accepted.good["price"].to_list() == [12, 3.5, -5]
