"""A family of small models of each held-out task that is quick enough for runs of 10,000 steps, 15 rates tried each."""

from optsearch.tasks.registry import TASKS

NAMES = ("digits_cnn/32", "keywords_cnn/8x32", "tabular_resnet/diabetes", "pinn_burgers/24x24", "graph_network/120",
         "rastrigin/10", "noisy_gradients/normal", "sparse_gradients/100")

small = [family for name in NAMES for family in TASKS[name.split("/")[0]]() if family.name == name]
