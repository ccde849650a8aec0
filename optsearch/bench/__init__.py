"""How fast the engine is, beside what a user would write instead and what the machine can do."""

from optsearch.bench.engine import FULL, QUICK, Effort, measure
from optsearch.bench.report import write
from optsearch.bench.tables import Table, sentences, tables

__all__ = ["FULL", "QUICK", "Effort", "Table", "measure", "sentences", "tables", "write"]
