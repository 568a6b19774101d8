"""The environment, read when a run starts."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks.store import Store


class Settings(BaseSettings):
    """Variables that begin with `ALMANAC_`; the command line's options of the same names set them."""

    model_config = SettingsConfigDict(env_prefix="ALMANAC_")

    store: str = Field(default="./store", description="URI of the store: a local folder, az:// or abfss://.")
    workers: int | None = Field(default=None, ge=1, description="Worker processes; default: the cores.")
    scheduler: str | None = Field(
        default=None, description="Address of a Dask scheduler to use, tcp://host:port."
    )


def open_store(uri: str | None) -> Store:
    """The store at `uri`, or the one that the environment names."""
    return Store(uri or Settings().store)
