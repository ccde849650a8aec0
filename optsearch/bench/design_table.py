"""A table of learning curves of many designs: one file, read and written whole."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from optsearch.bench.files import write_whole
from optsearch.errors import FileError

DIGITS = 4
HINT = "Make one with `optsearch bench table`."


@dataclass(frozen=True)
class Curve:
    """One meta-training of design number `design`: its value at every budget of the table that it came to.

    A value is log(relative loss) on one family. A meta-training that diverged or collapsed (`outcome`) has fewer
    values; `failed_shares` is the part of its inner losses at the cap since the value before.
    """

    design: int
    family: str
    seed: int
    values: tuple[float, ...]
    failed_shares: tuple[float, ...]
    outcome: str
    seconds: float

    @property
    def identity(self) -> tuple[int, str, int]:
        return self.design, self.family, self.seed


@dataclass(frozen=True)
class DesignTable:
    """Curves of designs drawn from one space, all with the same budgets (inner steps, rising) and horizon.

    `designs` holds the chosen parameters of each, by the names that the space gives them; `space_text` is the space.
    """

    space: str
    space_text: str
    horizon: int
    budgets: tuple[int, ...]
    designs: tuple[dict[str, Any], ...]
    curves: tuple[Curve, ...] = field(default=(), repr=False)

    @property
    def families(self) -> list[str]:
        return sorted({curve.family for curve in self.curves})

    @property
    def known(self) -> set[tuple[int, str, int]]:
        """What curves there are."""
        return {curve.identity for curve in self.curves}

    def of(self, family: str, seed: int = 0) -> list[Curve]:
        """One curve a design, in the order of the designs."""
        found = [curve for curve in self.curves if (curve.family, curve.seed) == (family, seed)]
        return sorted(found, key=lambda curve: curve.design)

    def with_curve(self, curve: Curve) -> "DesignTable":
        return replace(self, curves=(*self.curves, curve))

    def save(self, path: Path) -> None:
        """Raises `FileError`; a kill leaves the file as it was."""
        content = asdict(self)
        for curve in content["curves"]:
            for name in ("values", "failed_shares"):
                curve[name] = [round(value, DIGITS) for value in curve[name]]
        # Without a time in it, the same table is the same file.
        write_whole(path, gzip.compress(json.dumps(content, allow_nan=False).encode(), mtime=0))

    @staticmethod
    def load(path: Path) -> "DesignTable":
        """Raises `FileError` for what is no table."""
        try:
            content = json.loads(gzip.decompress(path.read_bytes()))
            content["curves"] = [Curve(**_with_tuples(each)) for each in content["curves"]]
            return DesignTable(**_with_tuples(content))
        except FileNotFoundError as error:
            raise FileError(f"there is no table {path}. {HINT}") from error
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileError(f"{path} holds no table of designs. {HINT}") from error


def _with_tuples(content: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}


def full_length(curve: Curve, num_points: int) -> Sequence[float]:
    """The values with the last one repeated for a meta-training that ended early: it is what a trial is left with."""
    return (*curve.values, *[curve.values[-1]] * (num_points - len(curve.values)))
