"""The pages of runs over HTTP: what is served, to whom, and which links lead there."""

import asyncio
import socket

import httpx
import pytest

from deployments.local import PAGES, Local, LocalError
from deployments.pages import application
from tasks.storage.store import Store
from tasks.storage.uris import link_of
from tests.conftest import wait_until
from tests.deployments.conftest import two_ports

URL = "https://pages.example/AeBai5phoh9yae7ohK"
PAGE = "sales/pages/2024-01-07 first.html"


@pytest.fixture
def local_store(tmp_path) -> Store:
    store = Store(str(tmp_path / "store"))
    store.put(PAGE, b"<!doctype html><p>A page")
    store.put("sales/bundles/1/about.json", b"{}")
    store.put("sales/pages/notes.txt", b"no page")
    return store


def ask(store: Store, url: str, method: str = "GET") -> httpx.Response:
    """The application's answer."""

    async def answer() -> httpx.Response:
        transport = httpx.ASGITransport(application(store, URL))
        async with httpx.AsyncClient(transport=transport, base_url="https://pages.example") as client:
            return await client.request(method, url)

    return asyncio.run(answer())


def test_the_link_of_a_page_leads_to_it(local_store, monkeypatch):
    monkeypatch.setenv("ALMANAC_STORE", local_store.uri)
    monkeypatch.setenv("ALMANAC_PAGES_URL", URL)
    link = link_of(local_store.uri_of(PAGE))
    assert link == f"{URL}/sales/pages/2024-01-07%20first.html"
    answer = ask(local_store, link)
    assert answer.status_code == httpx.codes.OK
    assert answer.text.endswith("A page")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_the_page_of_another_store_has_its_own_address(local_store, monkeypatch, tmp_path):
    monkeypatch.setenv("ALMANAC_STORE", str(tmp_path / "sto"))
    monkeypatch.setenv("ALMANAC_PAGES_URL", URL)
    assert link_of(local_store.uri_of(PAGE)).startswith("file:///")


@pytest.mark.parametrize(
    "path",
    [
        "/sales/pages/2024-01-07 first.html",
        "/wrong/sales/pages/2024-01-07 first.html",
        "/AeBai5phoh9yae7ohK/sales/pages/other.html",
        "/AeBai5phoh9yae7ohK/sales/pages/notes.txt",
        "/AeBai5phoh9yae7ohK/sales/bundles/1/about.json",
        "/AeBai5phoh9yae7ohK/sales/pages/..%2F..%2Fsales%2Fbundles%2F1%2Fabout.json",
        "/AeBai5phoh9yae7ohK/..%2Fstore/sales/pages/2024-01-07 first.html",
        "/",
    ],
)
def test_nothing_else_is_served(local_store, path):
    assert ask(local_store, path).status_code == httpx.codes.NOT_FOUND


def test_pages_are_only_read(local_store):
    for method in ("POST", "PUT", "DELETE"):
        answer = ask(local_store, f"{URL}/{PAGE}", method)
        assert answer.status_code == httpx.codes.METHOD_NOT_ALLOWED


@pytest.mark.slow
def test_deployed_on_this_machine_the_pages_are_served_at_an_address_that_only_the_owner_knows(
    local_store, tmp_path
):
    local = Local(two_ports(), tmp_path / "deploy")
    values = {
        "PREFECT_API_URL": local.url,
        "ALMANAC_STORE": local_store.uri,
        "ALMANAC_PAGES_URL": local.pages,
    }
    assert local.password() not in local.pages
    try:
        assert not local.start_pages({**values, "ALMANAC_PAGES_URL": URL})
        with (
            socket.create_server(("127.0.0.1", local.port + 1)),
            pytest.raises(LocalError, match=f"answers at port {local.port + 1}, where the pages"),
        ):
            local.start_pages(values)
        assert local.start_pages(values)
        assert not local.start_pages(values)
        wait_until(lambda: _status(f"{local.pages}/{PAGE}") == httpx.codes.OK, 60, "the page is served")
        assert _status(f"http://127.0.0.1:{local.port + 1}/{PAGE}") == httpx.codes.NOT_FOUND
    finally:
        assert local.stop() == [PAGES]


def _status(url: str) -> int | None:
    try:
        return httpx.get(url, trust_env=False).status_code
    except httpx.ConnectError:
        return None


def test_a_short_secret_is_refused(monkeypatch, capsys, tmp_path):
    from deployments.__main__ import main

    for name, value in {"PREFECT_API_URL": "http://127.0.0.1:9/api", "ALMANAC_STORE": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ALMANAC_PAGES_URL", "https://pages.example/short")
    monkeypatch.setattr("sys.argv", ["python -m deployments", "pages", "--port", "1"])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 1
    assert "a secret of 16 characters or more" in capsys.readouterr().err
