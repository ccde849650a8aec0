"""Learned optimizers that come with the package: `NAME.safetensors`, and `NAME.md`, its card."""

from pathlib import Path

from optsearch.errors import FileError

SUFFIX = ".safetensors"
FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Those that there are."""
    return sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}"))


def card(name: str) -> str:
    """What one was learned on, how good it is and where it fails, as Markdown; raises `FileError`."""
    return _known(name).with_suffix(".md").read_text(encoding="utf-8")


def resolve(place: Path) -> Path:
    """The file of a name without suffix, unless there is a file of that name; other paths as they are.

    Raises `FileError` for a name that is neither.
    """
    return place if place.suffix or place.exists() else _known(str(place))


def _known(name: str) -> Path:
    if name not in names():
        raise FileError(f"there is no file {name}, and no learned optimizer of that name comes with optsearch. "
                        f"There are: {', '.join(names())}; your own end with {SUFFIX}.")
    return FOLDER / f"{name}{SUFFIX}"
