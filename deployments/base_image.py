"""The base of the images by its digest: what is built tomorrow is built on what was looked at today.

    python -m deployments.base_image            # have both Dockerfiles name the digest that the tag has now
    python -m deployments.base_image --check    # say whether the tag has moved on; exit status 1 where it has

A tag such as `python:3.11-slim-bookworm` is moved by its publisher, for security fixes among others: run it every month
or so, build, test, commit.
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
    """The registry does not say what digest a tag has."""


def digest_of(image: str) -> str:
    """The digest that an image's tag has now, such as `sha256:…`, as its registry says. Raises `ImageError`."""
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
        raise ImageError(f"{image}: its registry does not answer, or lets nobody in: {error}") from None
    if answer.status_code != httpx.codes.OK:
        raise ImageError(f"{image}: its registry answers {answer.status_code} {answer.reason_phrase}.")
    found = answer.headers.get("Docker-Content-Digest", "")
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", found):
        raise ImageError(f"{image}: its registry names no digest, but '{found}'.")
    return str(found)


def _token(challenge: str) -> str:
    """A token for whoever asks, as the registry's challenge says where to get it."""
    told = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    query = {name: told[name] for name in ("service", "scope") if name in told}
    found = httpx.get(told["realm"], params=query, timeout=30).json()
    return str(found.get("token") or found["access_token"])


def moved(dockerfile: Path, *, check: bool) -> str | None:
    """Have a Dockerfile name the digest that its base's tag has now, unless `check`; what differs in words, else None."""
    text = dockerfile.read_text()
    found = _ARG.search(text)
    if found is None:
        raise ImageError(f"{dockerfile}: there is no line ARG BASE_IMAGE=IMAGE:TAG.")
    now = digest_of(found["image"])
    if found["digest"] == now:
        return None
    if not check:
        dockerfile.write_text(_ARG.sub(rf"\g<1>{found['image']}@{now}", text, count=1))
    return f"{dockerfile}: {found['image']} was {found['digest'] or 'not pinned'}, is {now}"


if __name__ == "__main__":
    try:
        differing = [told for one in DOCKERFILES if (told := moved(one, check="--check" in sys.argv[1:]))]
    except ImageError as error:
        sys.exit(str(error))
    print("\n".join(differing) or "Both Dockerfiles name the digests that their base's tag has now.")
    sys.exit(int(bool(differing) and "--check" in sys.argv[1:]))
