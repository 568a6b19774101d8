"""Credentials in an address, whatever its scheme and notation.

An address with a credential is refused before anything logs or shows it: the command line checks its parameters before a
run starts, and stores and sources are checked before they are opened.
"""

import re
from urllib.parse import unquote

from models.errors import AlmanacError


def _or_encoded(characters: str) -> str:
    """A pattern for one of these characters, also percent-encoded once or several times."""
    codes = "|".join(f"{ord(character):x}" for character in characters)
    return rf"(?:[{re.escape(characters)}]|%(?:25)*(?i:{codes}))"


_SECRET_NAMES = re.compile(
    rf"""{_or_encoded("?&;#")}\s*(
        [\w-]*(sig | signature | token | password | passwd | passphrase | pwd | secret | credentials? | key | key[_-]?id)
      | sas | se | sv | pass | auth | jwt | code
    )\s*{_or_encoded("=")}""",
    re.IGNORECASE | re.VERBOSE,
)
_CONNECTION_STRING = re.compile(
    rf"(account|shared\s?access)\s?(key|signature)\s*{_or_encoded('=')}|(^|\s)(ssl)?(password|pwd){_or_encoded('=')}",
    re.IGNORECASE,
)
_COLON, _SLASH, _AT = map(_or_encoded, ":/@")
_USER_AND_PASSWORD = re.compile(
    rf"\s*({_SLASH}{{2}})?[^/\s:@]+{_COLON}[^/\s@]+{_AT}[^/\s@]+({_COLON}|{_SLASH})"
)
"""A user and a password before a host, in an address without a scheme."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NAMES_A_CONTAINER = re.compile(r"(abfss?|wasbs?|adl)://[^:@/]+@[^@/]+(/|$)", re.IGNORECASE)
_DECODINGS = 3
PLAIN = (
    rf"^(?!{_USER_AND_PASSWORD.pattern}|[\s\S]*((?ix:{_SECRET_NAMES.pattern})|(?i:{_CONNECTION_STRING.pattern})"
    rf"|(?i:(?<!abfs)(?<!abfss)(?<!wasb)(?<!wasbs)(?<!adl){_COLON}{_SLASH}{{2}}[^/?#\s]*{_AT})"
    rf"|{_COLON}{_SLASH}{{2}}[^/?#\s@:]*{_COLON}[^@\s]*{_AT}))"
)
"""A pattern for JSON schemas, which most texts with a credential do not match."""


class CredentialError(AlmanacError):
    """An address carries a password, key or signature."""


def carries_credential(address: str) -> bool:
    """Whether an address contains a user, password, key or signature, even if it is percent-encoded.

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
    """Raise `CredentialError`, which does not repeat the address, if it carries a credential; `instead` is what to use."""
    if carries_credential(address):
        raise CredentialError(
            f"{name} carries a credential. Expected a plain address.\nUse {instead}, and revoke the exposed credential."
        )


def _has_user(address: str) -> bool:
    """Whether the address names a user. A raw `/`, `@` or space in a password does not hide it.

    Text may precede the address, as in `jdbc:postgresql://`; it then ends at a space.
    """
    if _USER_AND_PASSWORD.match(address):
        return True
    for match in _SCHEME.finditer(address):
        rest = address[match.start() :]
        one = rest.split()[0] if address[: match.start()].strip() else rest
        authority = re.split(r"[/?#]", one.removeprefix(match[0]), maxsplit=1)[0]
        if "@" in one and re.search("[@:]", authority) and not _NAMES_A_CONTAINER.match(one):
            return True
    return False
