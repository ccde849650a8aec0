"""Named designs: published learned optimizers, and starting points of our own."""

from optsearch.errors import DesignError
from optsearch.optimizers.controllers import History
from optsearch.optimizers.features import Features
from optsearch.optimizers.heads import ExpMagnitude, OutputRMS, Raw
from optsearch.optimizers.mixings import NoMixing
from optsearch.optimizers.optimizer import LearnedOptimizer
from optsearch.optimizers.rules import LSTM, MLP, NoRule
from optsearch.optimizers.schedules import Constant
from optsearch.optimizers.tensors import TensorFeatures

# One sentence each: what it is, and where it was published.
DESIGNS: dict[str, tuple[LearnedOptimizer, str]] = {
    "adamw_mlp": (LearnedOptimizer(features=Features(groups=("compact",))),
                  "MLP residual on AdamW with a learned schedule; a good place to start"),
    "small_fc": (LearnedOptimizer(
        features=Features(groups=("small_fc",), learn_decays=True), rule=MLP(hidden_size=32), head=ExpMagnitude(),
        schedule=Constant(1e-3), mixing=NoMixing(), base=None),
        "39-32-32-2 MLP with Adafactor features (Metz et al. 2022, arxiv.org/abs/2203.11860)"),
    "celo2": (LearnedOptimizer(
        features=Features(groups=("celo2",), second_moment_decay=0.95, normalize_eps=1e-9), rule=MLP(hidden_size=8),
        head=OutputRMS(floor=1e-9, spare_outputs=2), schedule=Constant(1e-3), mixing=NoMixing(), base=None),
        "30-8-8-3 MLP with steps of RMS 1, base form (Moudgil et al. 2026, arxiv.org/abs/2602.19142)"),
    "lstm_2016": (LearnedOptimizer(
        features=Features(groups=("log_sign",), normalize=False), rule=LSTM(hidden_size=20, num_layers=2), head=Raw(),
        schedule=Constant(0.01), mixing=NoMixing(), base=None),
        "coordinate-wise LSTM 20-20 (Andrychowicz et al. 2016, arxiv.org/abs/1606.04474)"),
    "rnnprop": (LearnedOptimizer(
        features=Features(groups=("adam",), momentum_decays=(0.95,), second_moment_decay=0.95, normalize=False),
        rule=LSTM(hidden_size=20, num_layers=2, input_size=20), head=Raw(bounded=True), schedule=Constant(0.01),
        mixing=NoMixing(), base=None),
        "LSTM 20-20 on Adam's directions (Lv et al. 2017, arxiv.org/abs/1703.03633)"),
    "opt2vec": (LearnedOptimizer(
        rule=NoRule(), schedule=Constant(0.01), controller=History(length=5, hidden_size=32, embedding_size=16),
        tensors=TensorFeatures(groups=("log_loss", "gradient", "settings"))),
        "AdamW whose learning rate a tensor comes from its last 5 losses, gradient norms and rates"),
}


def named_design(name: str) -> LearnedOptimizer:
    """One of `DESIGNS`; `DesignError` names those that exist."""
    if name not in DESIGNS:
        raise DesignError(f"there is no design `{name}`. Designs: {', '.join(sorted(DESIGNS))}.")
    return DESIGNS[name][0]
