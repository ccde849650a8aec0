"""The estimators of meta-gradients by name."""

from optsearch.meta_training.backprop import Backprop
from optsearch.meta_training.estimate import Estimator
from optsearch.meta_training.full_es import FullES
from optsearch.meta_training.pairs import Pairs

ESTIMATORS: dict[str, Estimator] = {
    "nres": Pairs(reuses_noise=True),
    "pes": Pairs(reuses_noise=False),
    "full_es": FullES(takes_signs=False),
    "full_es_sign": FullES(takes_signs=True),
    "backprop": Backprop("second_order"),
    "backprop_first_order": Backprop("first_order"),
}
