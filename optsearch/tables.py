"""A table for a person, on a terminal or in Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Table:
    """`note` says what the columns mean."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def markdown(self) -> list[str]:
        lines = ["| " + " | ".join(cells) + " |" for cells in (self.header, ("---",) * len(self.header), *self.rows)]
        return [f"## {self.title}", "", *([self.note, ""] if self.note else []), *lines]

    def plain(self) -> list[str]:
        """Aligned columns."""
        return [self.title, *([self.note] if self.note else []), "", *columns([self.header, *self.rows])]

    def _repr_html_(self) -> str:
        """For a notebook, whose colours it takes."""
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self.header)
        rows = "".join("<tr>" + "".join(f'<td style="text-align: left">{escape(cell)}</td>' for cell in row) + "</tr>"
                       for row in self.rows)
        return (f"<p><strong>{escape(self.title)}</strong>{f'<br><small>{escape(self.note)}</small>' * bool(self.note)}"
                f"</p><table>{f'<thead><tr>{head}</tr></thead>' * any(self.header)}<tbody>{rows}</tbody></table>")


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows with their columns aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
