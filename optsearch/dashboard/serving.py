"""Optuna Dashboard as a web server of this machine."""

import threading
import webbrowser
from contextlib import suppress
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna_dashboard import wsgi

from optsearch.dashboard.publishing import publish_made
from optsearch.errors import UsageError
from optsearch.search.storage import open_storage
from optsearch.search.study import Store


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of what was asked for."""


def serve(store: Store, name: str | None, address: tuple[str, int], *, open_browser: bool) -> None:
    """Serve until interrupted, at first at the page of study `name`; notes and pictures come up to date meanwhile.

    Raises `StudyError` when there is no such study, `UsageError` when the address (host, port) can't be had.
    """
    host, port = address
    page = "" if name is None else f"/studies/{store.load(name)._study_id}"
    app = wsgi(open_storage(store.url), artifact_store=store.places.artifact_store())
    try:
        server = make_server(host, port, app, _Server, _Quiet)
    except OSError as error:
        raise UsageError(f"port {port} of {host} can't be had: {error.strerror or error}. Is a dashboard open there "
                         f"already? Else choose another with --port, such as {port + 1}.") from error
    names = store.names() if name is None else [name]
    threading.Thread(target=publish_made, args=(store, names), name="optsearch-publisher", daemon=True).start()
    url = f"http://{host}:{port}/dashboard{page}"
    print(f"{url}  (Ctrl-C ends it)", flush=True)
    if open_browser:
        # Some browsers come back only when they are closed, and ask for the page before.
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()
