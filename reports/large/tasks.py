"""Digits for networks fifty times as large as the largest that `optsearch.load("vision")` was learned on."""

from optsearch.tasks.datasets import digits
from optsearch.tasks.vision import image_families

large = image_families("large", digits(), width=8000, channels=(168, 336))
