"""The house drawing of the README, held against the imports."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import optsearch

PACKAGE = Path(optsearch.__file__).parent
GROUND = {"errors", "seeds", "trees", "progress", "pictures", "layering", "compiling", "tables"}
# Every room and the rooms below it that it may know; a room may always know itself and the ground.
MAY_IMPORT: dict[str, set[str]] = {
    **{room: set() for room in GROUND},
    "models": set(),
    "tasks": set(),
    "optimizers": set(),
    "meta_training": {"tasks", "optimizers"},
    "export": {"models", "optimizers"},
    "adaptation": {"tasks", "optimizers", "meta_training", "export"},
    "bench": {"tasks", "optimizers", "meta_training", "adaptation", "export", "evaluation", "search"},
    "evaluation": {"tasks", "optimizers", "meta_training"},
    "search": {"tasks", "optimizers", "meta_training", "adaptation", "export", "evaluation"},
    "report": {"tasks", "optimizers", "meta_training", "export", "evaluation", "search"},
    "live": {"search"},
    "watching": {"dashboard", "search", "live"},
    "dashboard": {"optimizers", "report", "search"},
    "quickstart": {"search", "report", "watching"},
    "notebook": {"tasks", "export", "evaluation", "search", "report", "watching"},
    "__main__": {"cli"},
    "cli": {"models", "tasks", "optimizers", "meta_training", "adaptation", "export", "evaluation", "search", "report",
            "live", "watching", "dashboard", "quickstart", "bench"},
}
# Each foreign library and the rooms that are its home.
HOME: dict[str, set[str]] = {
    "optuna": {"search", "bench"},
    "botorch": {"search"},
    "gpytorch": {"search"},
    "sqlalchemy": {"search"},
    "joblib": {"search"},
    "sklearn": {"tasks", "bench"},
    "scipy": {"search", "bench"},
    "networkx": {"optimizers", "tasks", "search"},
    "tokenizers": {"tasks"},
    "torchvision": {"tasks"},
    "datasets": {"tasks"},
    "wandb": {"evaluation"},
    "mlflow": {"evaluation"},
    "torch.utils.tensorboard": {"evaluation"},
    "safetensors": {"trees"},
    "matplotlib": {"pictures"},
    "plotly": {"pictures"},
    "pandas": {"notebook"},
    "rich": {"progress"},
    "typer": {"cli"},
    "optuna_dashboard": {"dashboard"},
    "torch.optim": {"export", "bench"},
    "jax": {"bench"},
    "flax": {"bench"},
    "msgpack": {"export"},
    "learned_optimization": {"bench"},
    "pylo": {"bench"},
    "triton": {"export"},
    "torch.func": {"meta_training", "tasks"},
}


def modules() -> Iterator[tuple[str, str, ast.Module]]:
    """Room, path and syntax tree of every module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] != "__init__":
            yield parts[0], str(path.relative_to(PACKAGE)), ast.parse(path.read_text())


def imported(tree: ast.Module) -> Iterator[str]:
    """Every dotted name that a module imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_room_is_in_the_drawing() -> None:
    assert {room for room, _, _ in modules()} == set(MAY_IMPORT)


def test_imports_only_point_down() -> None:
    wrong = [f"{path} imports {name}" for room, path, tree in modules() for name in imported(tree)
             if name.startswith("optsearch.") and (below := name.split(".")[1]) in MAY_IMPORT
             and below not in MAY_IMPORT[room] | GROUND | {room}]
    assert not wrong


def test_the_drawing_has_no_circle() -> None:
    placed: set[str] = set()
    while len(placed) < len(MAY_IMPORT):
        ready = {room for room, below in MAY_IMPORT.items() if below <= placed} - placed
        assert ready, f"a circle among {set(MAY_IMPORT) - placed}"
        placed |= ready


def test_each_foreign_library_has_one_home() -> None:
    wrong = [f"{path} imports {name}" for room, path, tree in modules() for name in imported(tree)
             for library, homes in HOME.items()
             if (name == library or name.startswith(f"{library}.")) and room not in homes]
    assert not wrong


def test_the_readme_shows_every_room() -> None:
    readme = (PACKAGE.parent / "README.md").read_text()
    drawing = readme[readme.index("## The house"):]
    assert not [room for room in MAY_IMPORT if room not in drawing]


def test_importing_optsearch_is_light() -> None:
    """No search, no data sets; the time over torch itself is measured in the same process."""
    code = (
        "import time, sys; import torch; start = time.perf_counter(); import optsearch; optsearch.load; "
        "print(time.perf_counter() - start, *sorted(set(name.split('.')[0] for name in sys.modules)))")
    seconds, *loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True,
                                      text=True).stdout.split()
    assert not {"optuna", "botorch", "sklearn", "networkx", "matplotlib", "sqlalchemy", "typer"} & set(loaded)
    assert float(seconds) < 0.3


@pytest.mark.parametrize("folder", ["search_spaces", "studies"])
def test_packages_are_listed_and_data_is_found(folder: str) -> None:
    import tomllib

    from optsearch.search import resources

    root = PACKAGE.parent
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(("optsearch", *path.parent.relative_to(PACKAGE).parts)) for path in PACKAGE.rglob("__init__.py")}
    assert set(listed) == found | {"optsearch.search_spaces", "optsearch.studies"}
    assert resources.names(folder) == sorted(path.stem for path in (root / folder).glob("*.toml"))
