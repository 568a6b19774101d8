import pytest

from flows.settings import SettingsError, open_store, settings


def test_the_environment_is_read_when_it_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("ALMANAC_STORE", str(tmp_path / "one"))
    assert open_store(None).uri == str(tmp_path / "one")
    monkeypatch.setenv("ALMANAC_STORE", str(tmp_path / "two"))
    assert open_store(None).uri == str(tmp_path / "two")
    assert open_store(str(tmp_path / "given")).uri == str(tmp_path / "given")


def test_without_a_name_the_store_is_in_this_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert open_store(None).uri == str(tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("value", ["many", "0", "-1", "1.5"])
def test_a_value_that_cannot_be_is_named_with_its_variable(monkeypatch, value):
    monkeypatch.setenv("ALMANAC_WORKERS", value)
    with pytest.raises(SettingsError, match=f"ALMANAC_WORKERS={value}: "):
        settings()
