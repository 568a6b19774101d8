"""Access to Azure Database for PostgreSQL by the identity of the process instead of a password."""

import os
from typing import TYPE_CHECKING

from models.errors import AlmanacError

if TYPE_CHECKING:
    import sqlalchemy as sa

_HOSTS = ".postgres.database.azure.com"
_SCOPE = "https://ossrdbms-aad.database.windows.net/.default"


class IdentityError(AlmanacError):
    """The identity has no name, or its token would be sent to an unverified server."""


def with_identity(address: "sa.URL") -> "sa.URL":
    """The address of a database; an Azure database without a password gets a token instead.

    Whoever holds a token can use it, so it is sent only over TLS that verifies the server's name and certificate.
    Raises `IdentityError` if the address asks for less, or names no user.
    """
    password = address.password or address.query.get("password") or os.environ.get("PGPASSWORD")
    host = address.host or os.environ.get("PGHOST", "")
    if password or not host.endswith(_HOSTS):
        return address
    where, user = (
        f"postgresql://{host}/{address.database or ''}",
        address.username or os.environ.get("PGUSER"),
    )
    if not user:
        raise IdentityError(f"{where}: there is no user. Expected the name of the identity in PGUSER.")
    mode = address.query.get("sslmode", "verify-full")
    if mode != "verify-full":
        raise IdentityError(
            f"{where}: sslmode={mode}. A token of the identity is sent over a verified connection only. "
            "Omit sslmode, or set it to verify-full."
        )
    query = {"sslrootcert": "system", **address.query, "sslmode": mode}
    return address.set(username=user, password=_token(), query=query)


def _token() -> str:
    """A token of the process's identity, which Azure's PostgreSQL accepts as a password."""
    from azure.identity import DefaultAzureCredential

    return str(DefaultAzureCredential().get_token(_SCOPE).token)
