"""Optuna Dashboard over our database and artifacts."""

from optuna_dashboard import run_server

from optsearch.search.storage import open_storage
from optsearch.search.study import Store


def serve(store: Store, host: str, port: int) -> None:
    """Serve until interrupted."""
    print(f"http://{host}:{port}/dashboard  (Ctrl-C ends it)", flush=True)
    run_server(open_storage(store.url), host=host, port=port, artifact_store=store.places.artifact_store())
