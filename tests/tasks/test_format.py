import re

import pytest

from flows.settings import open_store
from tasks.storage.faults import StoreError
from tasks.storage.format import FORMAT, PATH, check_format, state_format
from tests.conftest import ROOT


def test_a_store_of_a_later_format_is_refused_with_the_way(store):
    store.put_json(PATH, {"format": FORMAT + 1})
    with pytest.raises(
        StoreError, match=rf"has format {FORMAT + 1}; .* up to {FORMAT}\. Use the version that wrote it"
    ):
        open_store(store.uri)


def test_a_store_that_says_nothing_is_of_the_first_format_and_says_so_from_then_on(store):
    store.put("sales/pace.json", b"{}")
    check_format(store)
    state_format(store)
    state_format(store)
    assert store.get_json(PATH) == {"format": FORMAT}
    assert open_store(store.uri).uri == store.uri


def test_every_format_is_in_the_page_about_upgrading():
    page = (ROOT / "docs/upgrading.md").read_text()
    assert [int(one) for one in re.findall(r"^\| (\d+) \|", page, re.M)] == list(range(1, FORMAT + 1))
