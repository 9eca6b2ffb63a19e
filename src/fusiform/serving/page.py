"""``/``: the page that ``fusiform demo`` shows, of the first model: it runs the model in the visitor's browser."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response

from fusiform.exporting.demo.files import Served, answer, name_of, serve_all
from fusiform.exporting.demo.job import page_files
from fusiform.serving.answering import Json
from fusiform.serving.limits import Application, Receive, Send
from fusiform.serving.refusals import Refusal


class Page:
    """The files of a model's page, in memory; made again when the model is replaced.

    ``source`` is what ``fusiform.open_model`` takes. Raises FusiformError for a model that no page can show.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._files: dict[str, Served] = {}
        self.make()

    def make(self) -> None:
        """Make the files of the model as it is now; the old ones stay where that fails."""
        # No harder than the demo: a second at the start counts for more than a megabyte.
        self._files = serve_all(page_files(self._source, None, lambda _: None, level=1))

    def has(self, path: str) -> bool:
        """Whether an address's path is of the page."""
        return name_of(path) in self._files

    def before(self, app: Application) -> Application:
        """An application whose addresses are all as they were but for those of the page."""

        async def asked(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
            served = self._files.get(name_of(scope["path"]))
            if served is None:
                await app(scope, receive, send)
                return
            scope["endpoint"] = page  # for the log and the metrics
            await page(scope, served)(scope, receive, send)

        return asked


def page(scope: MutableMapping[str, Any], served: Served) -> Response:
    """A file of the page."""
    if scope["method"] not in ("GET", "HEAD"):
        refusal = Refusal(405, "not_allowed", "this address is asked in another way: with GET", {"Allow": "GET, HEAD"})
        return Json(refusal.to_dict(), refusal.status, refusal.headers)
    headers = Headers(scope=scope)
    found = answer(
        served,
        scope["query_string"].decode("latin-1"),
        accepted=headers.get("accept-encoding", ""),
        known=headers.get("if-none-match", ""),
    )
    return Response(found.data, found.status, found.headers)
