"""Files that are written whole: a kill leaves the one that was there."""

from pathlib import Path

from optsearch.errors import FileError


def write_whole(path: Path, content: bytes) -> None:
    """Raises `FileError` where the file can't be written."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise FileError(f"{path} could not be written: {error.strerror or error}. "
                        "Choose another place with --output.") from error
