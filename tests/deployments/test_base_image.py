"""The command that pins the images' base, against a stand-in for a registry that follows the distribution API."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from deployments.base_image import DOCKERFILES, ImageError, digest_of, move_digest

FIRST, SECOND = (f"sha256:{digit * 64}" for digit in "12")


@pytest.fixture
def registry() -> Iterator[SimpleNamespace]:
    """A registry that requires a token, and whose tag has `digest`."""
    state = SimpleNamespace(digest=FIRST)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            let_in = self.headers.get("Authorization") == "Bearer anybody"
            there = self.path == "/v2/library/python/manifests/3.11"
            self.send_response(401 if not let_in else 200 if there else 404)
            if let_in:
                self.send_header("Docker-Content-Digest", state.digest)
            else:
                realm = f'Bearer realm="http://{state.host}/token",service="r",scope="repository:x:pull"'
                self.send_header("WWW-Authenticate", realm)
            self.end_headers()

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"token": "anybody"}).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.host = f"127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield state
    server.shutdown()


def test_a_dockerfile_names_the_digest_of_its_bases_tag_until_the_tag_moves(registry, tmp_path: Path):
    file = tmp_path / "Dockerfile"
    image = f"{registry.host}/library/python:3.11"
    file.write_text(f"# base\nARG BASE_IMAGE={image}\nFROM ${{BASE_IMAGE}}\n")
    assert "was not pinned" in (move_digest(file, check=True) or "")
    assert "@" not in file.read_text()
    assert FIRST in (move_digest(file, check=False) or "")
    assert f"ARG BASE_IMAGE={image}@{FIRST}\n" in file.read_text()
    assert move_digest(file, check=True) is None
    registry.digest = SECOND
    assert f"was {FIRST}, is {SECOND}" in (move_digest(file, check=False) or "")
    assert file.read_text() == f"# base\nARG BASE_IMAGE={image}@{SECOND}\nFROM ${{BASE_IMAGE}}\n"


def test_an_image_that_is_not_there_and_a_registry_that_does_not_answer_are_named(registry):
    with pytest.raises(ImageError, match="library/nothing:1: its registry"):
        digest_of(f"{registry.host}/library/nothing:1")
    with pytest.raises(ImageError, match="does not answer"):
        digest_of("127.0.0.1:9/library/python:3.11")


def test_both_dockerfiles_have_a_base_that_can_be_pinned():
    for file in DOCKERFILES:
        assert "\nARG BASE_IMAGE=docker.io/library/python:3.11" in file.read_text()
