"""The base image by its digest, so that every build uses the base that was reviewed.

    python -m deployments.base_image            # write the current digest of the tag into both Dockerfiles
    python -m deployments.base_image --check    # report whether the tag has moved; if it has, exit status 1

The publisher moves a tag such as `python:3.11-slim-bookworm`, for example for security fixes: run this about every
month, build, test, commit.
"""

import re
import sys
from pathlib import Path

import httpx

from models.errors import AlmanacError

DOCKERFILES = tuple(Path(__file__).parent / name for name in ("Dockerfile", "worker/Dockerfile"))
_ARG = re.compile(r"^(ARG BASE_IMAGE=)(?P<image>[^\s@]+)(?:@(?P<digest>sha256:[0-9a-f]{64}))?$", re.M)
_ACCEPT = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in ("oci.image.index.v1", "docker.distribution.manifest.list.v2", "oci.image.manifest.v1")
)
_HOSTS = {"docker.io": "registry-1.docker.io"}


class ImageError(AlmanacError):
    """The registry does not return the digest of a tag."""


def digest_of(image: str) -> str:
    """The current digest of an image's tag from its registry, such as `sha256:…`. Raises `ImageError`."""
    host, _, rest = image.partition("/")
    name, _, tag = rest.partition(":")
    scheme = "http" if host.startswith(("127.0.0.1:", "localhost:")) else "https"
    url = f"{scheme}://{_HOSTS.get(host, host)}/v2/{name}/manifests/{tag or 'latest'}"
    try:
        answer = httpx.head(url, headers={"Accept": _ACCEPT}, timeout=30)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            entrance = {"Authorization": f"Bearer {_token(answer.headers.get('WWW-Authenticate', ''))}"}
            answer = httpx.head(url, headers={"Accept": _ACCEPT, **entrance}, timeout=30)
    except (httpx.HTTPError, KeyError) as error:
        raise ImageError(f"{image}: its registry does not answer, or refuses access: {error}") from None
    if answer.status_code != httpx.codes.OK:
        raise ImageError(f"{image}: its registry answers {answer.status_code} {answer.reason_phrase}.")
    digest = answer.headers.get("Docker-Content-Digest", "")
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise ImageError(f"{image}: its registry returned '{digest}'. Expected a digest.")
    return str(digest)


def _token(challenge: str) -> str:
    """An anonymous token, from the address in the registry's challenge."""
    parameters = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    query = {name: parameters[name] for name in ("service", "scope") if name in parameters}
    answer = httpx.get(parameters["realm"], params=query, timeout=30).json()
    return str(answer.get("token") or answer["access_token"])


def move_digest(dockerfile: Path, *, check: bool) -> str | None:
    """Write the current digest of the base's tag into a Dockerfile, unless `check`; return a note on a change, else None."""
    text = dockerfile.read_text()
    match = _ARG.search(text)
    if match is None:
        raise ImageError(f"{dockerfile}: there is no line ARG BASE_IMAGE=IMAGE:TAG.")
    now = digest_of(match["image"])
    if match["digest"] == now:
        return None
    if not check:
        dockerfile.write_text(_ARG.sub(rf"\g<1>{match['image']}@{now}", text, count=1))
    return f"{dockerfile}: {match['image']} was {match['digest'] or 'not pinned'}, is {now}"


if __name__ == "__main__":
    try:
        notes = [note for one in DOCKERFILES if (note := move_digest(one, check="--check" in sys.argv[1:]))]
    except ImageError as error:
        sys.exit(str(error))
    print("\n".join(notes) or "Both Dockerfiles name the current digest of their base's tag.")
    sys.exit(int(bool(notes) and "--check" in sys.argv[1:]))
