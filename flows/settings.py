"""The environment, read when a run starts."""

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.addresses import carries_credential
from models.errors import AlmanacError
from tasks.storage.format import check_format
from tasks.storage.store import Store


class Settings(BaseSettings):
    """Variables that begin with `ALMANAC_`; command-line options of the same names set them."""

    model_config = SettingsConfigDict(env_prefix="ALMANAC_", env_ignore_empty=True)

    store: str = Field(default="./store", description="URI of the store: a local folder, az:// or abfss://.")
    workers: int | None = Field(
        default=None, ge=1, description="Number of worker processes; default: one per core."
    )
    scheduler: str | None = Field(
        default=None, description="Address of a Dask scheduler to use, tcp://host:port or tls://host:port."
    )
    stuck_seconds: float | None = Field(
        default=None,
        gt=0,
        description="Seconds after which a shard counts as stuck; default: derived from earlier shards.",
    )
    timeout_seconds: float | None = Field(
        default=None, gt=0, description="Seconds after which a flow run is ended; default: by its kind."
    )
    server_idle_seconds: float = Field(
        default=300,
        ge=0,
        description="Seconds that the Prefect server of a command waits for the next command.",
    )
    sql_url: SecretStr | None = Field(
        default=None,
        description="SQL database that published rows are copied to, postgresql://USER@HOST/DATABASE.",
    )


class SettingsError(AlmanacError):
    """An environment variable has an invalid value."""


def settings() -> Settings:
    """The current settings. Raises `SettingsError`, which names the invalid variable."""
    try:
        return Settings()
    except ValidationError as error:
        lines = []
        for one in error.errors():
            value = "..." if carries_credential(str(one["input"])) else one["input"]
            lines.append(f"ALMANAC_{'_'.join(map(str, one['loc'])).upper()}={value}: {one['msg']}.")
        raise SettingsError("\n".join(lines)) from None


def open_store(uri: str | None) -> Store:
    """The store at `uri`, or the one that the environment names. Raises `StoreError` for an unknown format."""
    store = Store(uri or settings().store)
    check_format(store)
    return store
