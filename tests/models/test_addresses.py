"""Addresses that carry a secret are refused without repeating it, in whatever form they are written."""

import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.addresses import PLAIN, CredentialError, carries_credential, refuse_credential
from tasks.ingest.sources import read
from tasks.storage.store import Store

SECRETS = st.text("abcXYZ0189+/=@:%-_", min_size=8, max_size=40)
SCHEMES = st.sampled_from(["az", "abfss", "wasbs", "s3", "https", "gs", "postgresql", "tcp"])
QUERIES = ["sig", "AccountKey", "sharedAccessKey", "password", "X-Amz-Signature", "sas_token", "access_token"]


def in_any_case(text: str) -> st.SearchStrategy[str]:
    return st.lists(st.booleans(), min_size=len(text), max_size=len(text)).map(
        lambda upper: "".join(c.upper() if u else c.lower() for c, u in zip(text, upper, strict=True))
    )


@st.composite
def with_a_secret(draw: st.DrawFn) -> tuple[str, str]:
    """An address and the secret that it carries: before the host, in the query, or in a connection string."""
    secret, scheme = draw(SECRETS), draw(SCHEMES.flatmap(in_any_case))
    form = draw(st.sampled_from(["user", "query", "more", "local", "connection string"]))
    name = draw(st.sampled_from(QUERIES).flatmap(in_any_case))
    address = {
        "user": f"{scheme}://key:{secret}@container/folder",
        "query": f"{scheme}://account/folder/a.csv?{name}={secret}",
        "more": f"{scheme}://account/a.csv?x=1&{name}={secret}",
        "local": f"folder/a.csv?{name}={secret}",
        "connection string": f"AccountName=a;{draw(in_any_case('AccountKey'))}={secret};",
    }[form]
    for _ in range(draw(st.integers(0, 2))):
        address = quote(address, safe=draw(st.sampled_from([":/@", ""])))
    return address, secret


@given(with_a_secret())
def test_an_address_with_a_secret_is_refused_and_not_repeated(address_and_secret):
    address, secret = address_and_secret
    for use in (
        lambda: refuse_credential("--source", address),
        lambda: Store(address),
        lambda: next(read(address)),
    ):
        with pytest.raises(CredentialError, match="carries a credential") as error:
            use()
        assert secret not in str(error.value)
    assert not re.search(PLAIN, address)


@pytest.mark.parametrize(
    "address",
    [
        "host=h user=u password=s3cret dbname=d",
        "postgresql://host/db?sslpassword=s3cret",
        "user:s3cret@host:5432/db",
        "//user:s3cret@host/db",
        "az://c/sales.csv#sig=s3cret",
        "simplecache::s3://key:s3cret@b/x",
        "jdbc:postgresql://u:s3cret@h/db",
        "'https://u:s3cret@h/a.csv'",
        "az://c/a.csv,s3://key:s3cret@b/b.csv",
        "https://h/a.csv?private_token=s3cret",
        "https://h/a.csv?subscription-key=s3cret",
    ],
)
def test_other_forms_of_a_secret_are_refused_too(address):
    assert carries_credential(address)
    assert not re.search(PLAIN, address)


@given(st.sampled_from(["az", "abfss", "azure"]), st.text("abc ~[]{}%@*?:,;'-_.é", max_size=30))
def test_a_plain_address_is_not_refused(scheme, path):
    assert not carries_credential(f"{scheme}://container/folder/{path}")
    assert not carries_credential(f"/folder/{path}")
    assert re.search(PLAIN, f"{scheme}://container/folder/{path}")


@pytest.mark.parametrize(
    "address",
    [
        "abfss://raw@plant.dfs.core.windows.net/sales/*.csv",
        "wasbs://raw@plant.blob.core.windows.net/a@b.csv",
        "C:/Users/max@example/sales.csv",
        "az://c/year=2024/signal=3/key=4.csv",
        "tcp://127.0.0.1:8786",
        "az://c/time=2024-01-01%2000%3A00%3A00/a@b.csv",
        "see https://wiki:8443/pumps, or ask max@example.com",
        "abfss://raw@plant.dfs.core.windows.net/a.csv abfss://raw@plant.dfs.core.windows.net/b.csv",
    ],
)
def test_a_container_before_the_account_and_partitions_of_a_path_are_no_secret(address):
    assert not carries_credential(address)
    assert re.search(PLAIN, address)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["ingest", "--source", "az://c/a.csv?SIG=hush", "--json"], "--source"),
        (["ingest", "--source=az://c/a.csv?SIG=hush"], "--source"),
        (["ingest", "--source=pwd=hush"], "--source"),
        (["forecast", "--as-of", "https://user:hush@host/2024-01-01"], "--as-of"),
        (["forecast", "--total-weeks", "4", "s3://key:hush@bucket"], "--total-weeks"),
        (["--s3://key:hush@bucket"], "An argument"),
    ],
)
def test_the_command_line_refuses_a_secret_before_a_run_has_it(words, name, monkeypatch, capsys):
    from flows import command_line

    monkeypatch.setattr(command_line, "_on_a_server", lambda *_: pytest.fail("a run has it"))
    monkeypatch.setattr("sys.argv", ["python -m flows", "sales", *words])
    with pytest.raises(SystemExit) as exit:
        command_line.main()
    output = capsys.readouterr()
    assert exit.value.code == 1
    assert f"{name} carries a credential" in output.err
    assert "hush" not in output.err + output.out


def test_a_variable_with_a_wrong_value_is_named_without_a_secret_in_it(monkeypatch):
    from flows.settings import SettingsError, settings

    monkeypatch.setenv("ALMANAC_WORKERS", "https://user:hush@host")
    with pytest.raises(SettingsError, match=r"^ALMANAC_WORKERS=\.\.\.: "):
        settings()


def test_the_environment_names_no_server_scheduler_or_tracking_server_by_a_password(monkeypatch):
    from flows.cluster import check_scheduler
    from flows.server import check_api
    from tasks.registry.tracking import tracking_uri

    def check_tracking(address: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        tracking_uri(Store("store"))

    for address, check in (
        ("http://admin:hush@127.0.0.1:9/api", lambda address: check_api(address, "")),
        ("tls://admin:hush@127.0.0.1:9", check_scheduler),
        ("https://admin:hush@mlflow.example", check_tracking),
        ("postgresql://admin:hush@127.0.0.1/mlflow", check_tracking),
    ):
        with pytest.raises(CredentialError, match="carries a credential") as error:
            check(address)
        assert "hush" not in str(error.value)
