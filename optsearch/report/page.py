"""A page as data, and the same page as one HTML file or as Markdown with pictures beside it."""

import base64
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

from optsearch.errors import FileError
from optsearch.pictures import Chart, chart_svg, save_chart
from optsearch.report.style import CSS
from optsearch.tables import Table

NAMES = ("index.html", "report.md")
NUMBER = re.compile(r"[-+−]?[\d.,]+( ?[%sx×]| \(.*\)| of \d+)?")
UNSAFE = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class Drawing:
    """A picture that is no chart; `draw` writes it as PNG to a path."""

    title: str
    draw: Callable[[Path], None]
    note: str = ""


@dataclass(frozen=True)
class Figures:
    """What a reader wants to know first: pairs of a figure and what it is."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Listing:
    """Lines to be copied, such as commands."""

    lines: Sequence[str]


# A string is a paragraph of plain text.
Block = str | Table | Chart | Drawing | Figures | Listing


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """`lead` stands under the title; no text of it is markup."""

    title: str
    lead: str
    sections: Sequence[Section]


def write(page: Page, directory: Path) -> list[Path]:
    """`index.html`, `report.md` and its pictures; returns what was written. Raises `FileError`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        pictures = [_save(block, directory / name) for block, name in _pictures(page)]
        paths = [directory / name for name in NAMES]
        for path, text in zip(paths, (html(page), markdown(page)), strict=True):
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FileError(f"{directory} could not be written to: {error.strerror or error}. "
                        "Choose another folder with --output.") from error
    return [*paths, *pictures]


def file_name(text: str) -> str:
    """Words as the name of a file or folder, never one that leads elsewhere."""
    return UNSAFE.sub("-", text).strip(".-") or "report"


def _pictures(page: Page) -> Iterator[tuple[Chart | Drawing, str]]:
    """All of them in their order, each with a file's name of its own."""
    seen: dict[str, int] = {}
    for block in (block for section in page.sections for block in section.blocks):
        if isinstance(block, Chart | Drawing):
            stem = file_name(block.title.lower())
            seen[stem] = count = seen.get(stem, 0) + 1
            yield block, f"{stem}.png" if count == 1 else f"{stem}.{count}.png"


def _save(block: Chart | Drawing, path: Path) -> Path:
    if isinstance(block, Chart):
        save_chart(path, block)
    else:
        block.draw(path)
    return path


def markdown(page: Page) -> str:
    """For the folder that has the pictures."""
    lines = [f"# {_plain(page.title)}", "", _plain(page.lead)]
    names = (name for _, name in _pictures(page))
    for section in page.sections:
        lines += ["", f"## {_plain(section.title)}"]
        for block in section.blocks:
            lines += ["", *_markdown(block, names)]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Text of which Markdown makes nothing else."""
    return re.sub(r"([\\`*|\[\]])", r"\\\1", escape(text, quote=False)).replace("\n", " ")


def _markdown(block: Block, names: Iterator[str]) -> list[str]:
    """`names` are those of the pictures from here on."""
    if isinstance(block, str):
        return [_plain(block)]
    if isinstance(block, Listing):
        return [f"    {line}" for text in block.lines for line in text.split("\n")]
    if isinstance(block, Figures):
        return [f"- **{_plain(figure)}** {_plain(words)}" for figure, words in block.pairs]
    if isinstance(block, Table):
        lines = replace(block, title=_plain(block.title), note=_plain(block.note), header=_cells(block.header),
                        rows=[_cells(row) for row in block.rows]).markdown()
        return [f"#{lines[0]}", *lines[1:]] if block.title else lines[2:]
    return [f"![{_plain(block.title)}]({next(names)})", *(["", _plain(block.note)] if block.note else [])]


def _cells(row: Sequence[str]) -> tuple[str, ...]:
    return tuple(map(_plain, row))


def html(page: Page) -> str:
    """One file that needs no other."""
    title = escape(page.title)
    places = [(f"part{index}", section) for index, section in enumerate(page.sections, start=1)]
    links = "".join(f'<li><a href="#{place}">{escape(section.title)}</a></li>' for place, section in places)
    body = "\n".join(line for place, section in places for line in _section(place, section))
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
            f"<style>{CSS}</style>\n</head>\n<body>\n<main>\n<header><h1>{title}</h1>\n"
            f'<p class="lead">{escape(page.lead)}</p>\n<nav aria-label="Sections"><ol>{links}</ol></nav></header>\n'
            f"{body}\n</main>\n</body>\n</html>\n")


def _section(place: str, section: Section) -> Iterator[str]:
    yield f'<section id="{place}"><h2>{escape(section.title)}</h2>'
    yield from map(_html, section.blocks)
    yield "</section>"


def _html(block: Block) -> str:
    if isinstance(block, str):
        return f"<p>{escape(block)}</p>"
    if isinstance(block, Listing):
        return f'<pre tabindex="0">{escape(chr(10).join(block.lines))}</pre>'
    if isinstance(block, Figures):
        return '<dl class="figures">' + "".join(
            f"<div><dt>{escape(words)}</dt><dd>{escape(figure)}</dd></div>" for figure, words in block.pairs) + "</dl>"
    if isinstance(block, Table):
        return _html_table(block)
    note = f"<figcaption>{escape(block.note)}</figcaption>" if block.note else ""
    if isinstance(block, Chart):
        # The element says to those who don't see it what it is.
        drawn = chart_svg(block).replace("<svg", f'<svg role="img" aria-label="{escape(block.title)}"', 1)
        return f'<figure class="chart">{drawn}{note}</figure>'
    return (f'<figure><div class="scroll sheet" tabindex="0"><img alt="{escape(block.title)}" '
            f'src="data:image/png;base64,{_encoded(block)}"></div>{note}</figure>')


def _encoded(block: Drawing) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drawing.png"
        block.draw(path)
        return base64.b64encode(path.read_bytes()).decode()


def _html_table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header) if any(table.header) else ""
    rows = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in table.rows)
    title = f"<h3>{escape(table.title)}</h3>" if table.title else ""
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (f'{title}{note}<div class="scroll" tabindex="0"><table>'
            f"{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{rows}</tbody></table></div>")


def _cell(text: str) -> str:
    return f'<td class="number">{escape(text)}</td>' if NUMBER.fullmatch(text) else f"<td>{escape(text)}</td>"
