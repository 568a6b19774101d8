"""Credentials in an address, whatever its scheme and notation.

An address with a credential is refused before anything repeats it: the command line checks before a run has
parameters, a store and a source before they are opened.
"""

import re
from urllib.parse import unquote

from models.errors import AlmanacError

_SECRET_NAMES = re.compile(
    r"""[?&;\#]\s*(
        sig | sas | se | sv | signature | token | (ssl)?password | passwd | pwd | passphrase | secret | credential
      | (api|account|access|shared|secret|private|storage)[_-]?key([_-]?id)? | key | code
      | shared[_-]?access[_-]?(key|signature) | client[_-]?secret | (access|session|security|sas|auth)[_-]?token
      | (x-(amz|goog)-)(signature|credential|security-token) | (aws|google)access(key)?id
      | aws[_-](access[_-]key[_-]id|secret[_-]access[_-]key|session[_-]token)
      | azure[_-]storage[_-](account[_-]key|access[_-]key|sas[_-]token|sas[_-]key)
    )\s*=""",
    re.IGNORECASE | re.VERBOSE,
)
_CONNECTION_STRING = re.compile(
    r"(account|shared\s?access)\s?(key|signature)\s*=|(^|\s)(ssl)?(password|pwd)=", re.IGNORECASE
)
_USER_AND_PASSWORD = re.compile(r"\s*(//)?[^/\s:@]+:[^/\s@]+@[^/\s@]+[:/]")
"""What precedes a host where no scheme does."""
_NAMES_A_CONTAINER = re.compile(r"(abfss?|wasbs?|adl)://[^:@/]+@[^@/]+(/|$)", re.IGNORECASE)
_DECODINGS = 3


class CredentialError(AlmanacError):
    """An address carries a password, key or signature."""


def carries_credential(address: str) -> bool:
    """Whether an address contains a user, password, key or signature, also a percent-encoded one.

    A container before the account, as in `abfss://CONTAINER@ACCOUNT...`, is not a credential.

    >>> carries_credential("abfss://raw@plant.dfs.core.windows.net/sales"), carries_credential("s3://KEY:SECRET@b/x")
    (False, True)
    """
    for _ in range(_DECODINGS):
        if _SECRET_NAMES.search(address) or _CONNECTION_STRING.search(address) or _has_user(address):
            return True
        address = unquote(address)
    return False


def refuse_credential(
    name: str, address: str, instead: str = "a managed identity or the AZURE_* environment variables"
) -> None:
    """Raise `CredentialError`, which does not repeat the address, where it carries a credential; `instead` is the advice."""
    if carries_credential(address):
        raise CredentialError(
            f"{name} carries a credential. Expected a plain address.\nUse {instead}, and revoke the exposed credential."
        )


def _has_user(address: str) -> bool:
    """Whether a user precedes the host. A raw `/` or `@` in a password does not hide it."""
    scheme, separator, rest = address.partition("://")
    if _USER_AND_PASSWORD.match(address):
        return True
    if not separator or not re.fullmatch(r"\s*[A-Za-z][A-Za-z0-9+.-]*", scheme) or "@" not in rest:
        return False
    if _NAMES_A_CONTAINER.match(address.strip()):
        return False
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    return "@" in authority or ":" in authority
