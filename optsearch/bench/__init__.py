"""How fast the engine is, beside what a user would write instead; designs, and searchers, against each other.

`bench.search` and what it needs are imported where they are asked for: they load whole libraries of models.
"""

from optsearch.bench.contest import FAMILIES, Contest, Entry, hold
from optsearch.bench.contest_page import contest_tables, write_contest
from optsearch.bench.engine import FULL, QUICK, Effort, measure
from optsearch.bench.report import write
from optsearch.bench.tables import sentences, tables
from optsearch.tables import Table

__all__ = ["FAMILIES", "FULL", "QUICK", "Contest", "Effort", "Entry", "Table", "contest_tables", "hold", "measure",
           "sentences", "tables", "write", "write_contest"]
