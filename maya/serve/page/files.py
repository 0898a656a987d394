"""The page's own files: HTML, CSS and JavaScript modules from the package, with what a browser may do."""

import os
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

FOLDER = "/page"  # of the files' addresses
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # asked for again by its ETag: after an update no old module meets a new one
}


class PageFiles(StaticFiles):
    """The files of `static`, by name."""

    def __init__(self) -> None:
        super().__init__(packages=[("maya.serve", "page/static")])

    def file_response(self, full_path: str | os.PathLike[str], *args: Any, **options: Any) -> Response:
        response = super().file_response(full_path, *args, **options)
        response.headers.update(HEADERS)
        return response


FILES = PageFiles()


async def show_page(request: Request) -> Response:
    """`GET /`."""
    return await FILES.get_response("index.html", request.scope)
