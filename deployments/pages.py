"""The pages of runs over HTTP, so that a browser opens the links of artifacts and events."""

import re
import secrets
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from tasks.storage.store import Store

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "connect-src 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""A page sends nothing to anyone, and its address, which is a secret, to no page that it links to."""


def application(store: Store, url: str) -> Starlette:
    """An application that serves the pages of runs in `store`, and nothing else in it, below the path of `url`.

    That path is a secret: who does not know it is told that there is nothing.
    """
    prefix = urlsplit(url).path.strip("/").encode()

    def page(request: Request) -> HTMLResponse:
        parts = re.fullmatch(r"(.+)/([\w-]+/pages/[^/\\]+\.html)", request.path_params["path"])
        if not parts or not secrets.compare_digest(parts[1].encode(), prefix):
            raise HTTPException(404)
        content = store.get(parts[2])
        if content is None:
            raise HTTPException(404, "There is no such page, or it is older than housekeeping keeps pages.")
        return HTMLResponse(content, headers=_HEADERS)

    return Starlette(routes=[Route("/{path:path}", page)])


def serve(store: Store, url: str, port: int) -> None:
    """Serve the pages on the loopback interface until the process is ended."""
    uvicorn.run(application(store, url), host="127.0.0.1", port=port, log_level="warning", access_log=False)
