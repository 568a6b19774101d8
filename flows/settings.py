"""The environment, read when a run starts."""

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.errors import AlmanacError
from tasks.storage.format import check_format
from tasks.storage.store import Store


class Settings(BaseSettings):
    """Variables that begin with `ALMANAC_`; the command line's options of the same names set them."""

    model_config = SettingsConfigDict(env_prefix="ALMANAC_", env_ignore_empty=True)

    store: str = Field(default="./store", description="URI of the store: a local folder, az:// or abfss://.")
    workers: int | None = Field(default=None, ge=1, description="Worker processes; default: the cores.")
    scheduler: str | None = Field(
        default=None, description="Address of a Dask scheduler to use, tcp://host:port or tls://host:port."
    )
    stuck_seconds: float | None = Field(
        default=None,
        gt=0,
        description="Seconds after which a shard counts as stuck; default: from how long shards took before.",
    )
    timeout_seconds: float | None = Field(
        default=None, gt=0, description="Seconds after which a flow run is ended; default: by what it does."
    )
    server_idle_seconds: float = Field(
        default=300,
        ge=0,
        description="Seconds that the Prefect server of a command stays for the next one.",
    )
    sql_url: SecretStr | None = Field(
        default=None,
        description="SQL database that published rows are brought into, postgresql://USER@HOST/DATABASE.",
    )


class SettingsError(AlmanacError):
    """A variable of the environment has a value that it cannot have."""


def settings() -> Settings:
    """The settings as they are now. Raises `SettingsError` that names the variable at fault."""
    try:
        return Settings()
    except ValidationError as error:
        lines = "\n".join(
            f"ALMANAC_{'_'.join(map(str, one['loc'])).upper()}={one['input']}: {one['msg']}."
            for one in error.errors()
        )
        raise SettingsError(lines) from None


def open_store(uri: str | None) -> Store:
    """The store at `uri`, or the one that the environment names. Raises `StoreError` for a format that is not known."""
    store = Store(uri or settings().store)
    check_format(store)
    return store
