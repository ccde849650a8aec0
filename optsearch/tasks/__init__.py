"""What is trained on: task families of several domains, and the user's own models."""

from optsearch.tasks.augmentation import LowPrecision, Reparametrized
from optsearch.tasks.family import DOMAINS, Data, Split, TaskFamily, split_rows
from optsearch.tasks.modules import from_module
from optsearch.tasks.registry import TASKS, families, families_of

__all__ = ["DOMAINS", "TASKS", "Data", "LowPrecision", "Reparametrized", "Split", "TaskFamily", "families",
           "families_of", "from_module", "split_rows"]
