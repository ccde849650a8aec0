"""Named designs: published learned optimizers, and starting points of our own."""

from optsearch.errors import DesignError
from optsearch.optimizers import controllers
from optsearch.optimizers.adam import AdamW, AggMo
from optsearch.optimizers.bases import Base
from optsearch.optimizers.controllers import Controller, History, Linear, NoController
from optsearch.optimizers.features import Features
from optsearch.optimizers.gnn import GNN
from optsearch.optimizers.heads import ExpMagnitude, OutputRMS, ParameterRMS, Raw
from optsearch.optimizers.memory import KeyValueMemory
from optsearch.optimizers.mixings import Gated, Mixing, NoMixing, Residual
from optsearch.optimizers.muon import Muon
from optsearch.optimizers.optimizer import LearnedOptimizer
from optsearch.optimizers.rules import LSTM, MLP, NoRule
from optsearch.optimizers.schedules import Constant, Cosine, Progress
from optsearch.optimizers.soap import SOAP
from optsearch.optimizers.steering import Controls
from optsearch.optimizers.tensors import TensorFeatures
from optsearch.optimizers.transformer import Transformer
from optsearch.optimizers.watchful_mixings import Trust


def _steered(base: Base, controller: Controller, controls: Controls) -> LearnedOptimizer:
    """A base with a schedule, whose rates and decays follow what is seen of each tensor."""
    return LearnedOptimizer(
        rule=NoRule(), schedule=Cosine(0.07), base=base, controller=controller, controls=controls,
        tensors=TensorFeatures(groups=("gradient", "parameter", "momentum", "second_moment", "momentum_ratio",
                                       "agreement", "gradient_trend", "size", "rank", "loss", "log_loss", "progress",
                                       "settings")))


def _linear(base: Base) -> LearnedOptimizer:
    return _steered(base, Linear(), Controls(tunes_base=True, accumulates=True, over_run=True, gain=30.0))


def _on_adamw(controller: Controller | None = None, mixing: Mixing | None = None) -> LearnedOptimizer:
    """A small MLP residual on AdamW, and a learned schedule; decay strong enough for the MLP to have a say in it."""
    return LearnedOptimizer(features=Features(groups=("compact",)), head=OutputRMS(), schedule=Progress(0.01),
                            base=AdamW(weight_decay=0.3), mixing=mixing or Residual(),
                            controller=controller or NoController(),
                            controls=Controls(context_size=4, film=True) if controller else Controls())


# One sentence each: what it is, and where it was published. A search begins with the first ones that its space holds.
DESIGNS: dict[str, tuple[LearnedOptimizer, str]] = {
    "soap_gru": (
        _steered(SOAP(weight_decay=0.1, beta2=0.98, shampoo_beta=0.98, adjust_lr="mup"),
                 controllers.GRU(hidden_size=24),
                 Controls(tunes_base=True, accumulates=True, over_run=True, at_once=True, gain=10.0)),
        "SOAP whose rates and decays a GRU sets for each tensor, both for good and for the moment"),
    "soap_linear": (
        _linear(SOAP(weight_decay=0.1, beta2=0.98, shampoo_beta=0.98, precondition_1d=True, adjust_lr="mup")),
        "SOAP whose rates and decays follow what is seen of each tensor, linearly: a good place to start"),
    "muon_linear": (
        _linear(Muon(weight_decay=0.1, adjust_lr="mup")),
        "soap_linear on Muon: cheaper steps, and more of them"),
    "muon_spectral": (
        _linear(Muon(weight_decay=0.1, adjust_lr="spectral")),
        "muon_linear with steps by the shape of a layer alone: for single outputs, factors and the like"),
    "muon_gru": (LearnedOptimizer(
        features=Features(groups=("compact",)), rule=MLP(hidden_size=8), head=OutputRMS(), schedule=Cosine(0.05),
        base=Muon(weight_decay=0.1, adjust_lr="mup"), mixing=Trust(), controller=controllers.GRU(hidden_size=24),
        tensors=TensorFeatures(groups=("gradient", "parameter", "momentum", "second_moment", "momentum_ratio",
                                       "gradient_trend", "size", "rank", "loss", "progress", "settings")),
        controls=Controls(context_size=4, film=True, tunes_base=True)),
        "Muon and a small MLP, under a GRU that sets each tensor's rate and decays"),
    "adamw_mlp": (_on_adamw(), "MLP residual on AdamW with a learned schedule"),
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
    "star": (LearnedOptimizer(
        features=Features(groups=("small_fc",), learn_decays=True), rule=MLP(hidden_size=4),
        head=ExpMagnitude(spare_outputs=1), schedule=Constant(1e-3), mixing=Gated(), base=AggMo()),
        "39-4-4-4 MLP beside Adam on aggregated momenta (Harrison et al. 2022, arxiv.org/abs/2209.11208)"),
    "nnadam": (LearnedOptimizer(
        rule=NoRule(), base=AdamW(weight_decay=0.0), schedule=Constant(1e-4),
        controller=controllers.LSTM(hidden_size=32, mix="none", learns_start=True),
        tensors=TensorFeatures(groups=("gradient", "parameter", "momentum", "second_moment", "momentum_ratio", "size",
                                       "rank", "gradient_trend", "settings")),
        controls=Controls(tunes_base=True, accumulates=True, gain=0.1)),
        "Adam whose rate, decays and epsilon an LSTM moves for each tensor (nn_adam of google/learned_optimization)"),
    "celo": (LearnedOptimizer(
        features=Features(groups=("celo2",), rsqrt_eps=1e-6, short_rows=True), rule=MLP(hidden_size=4),
        head=ParameterRMS(spare_outputs=1),
        schedule=Constant(1e-4), mixing=NoMixing(), base=None,
        controller=controllers.LSTM(hidden_size=64, mix="max", learns_start=True),
        tensors=TensorFeatures(groups=("progress", "loss"))),
        "30-4-4-3 MLP under an LSTM's schedule (Moudgil et al. 2025, arxiv.org/abs/2501.12670)"),
    "velo_small": (LearnedOptimizer(
        features=Features(groups=("celo2",)), rule=MLP(hidden_size=4), head=ParameterRMS(spare_outputs=1),
        schedule=Constant(1e-4), mixing=NoMixing(), base=None,
        controller=controllers.LSTM(hidden_size=64, mix="max", learns_start=True),
        tensors=TensorFeatures(groups=("progress", "loss", "momentum", "second_moment", "momentum_ratio", "rank")),
        controls=Controls(context_size=16, film=True)),
        "VeLO an eighth as wide, with FiLM for its bank of MLPs (Metz et al. 2022, arxiv.org/abs/2211.09760)"),
    "transformer_256x4": (LearnedOptimizer(
        rule=NoRule(), controller=Transformer(hidden_size=256, num_layers=4, num_heads=8, sequence_length=100)),
        "AdamW whose learning rates a transformer sets, over tensors and over the last 100 steps"),
    "lstm_128x2_memory1000": (LearnedOptimizer(
        rule=NoRule(), controller=controllers.LSTM(hidden_size=128, num_layers=2, forget_bias=1.0),
        memory=KeyValueMemory(size=1000)),
        "AdamW whose learning rates an LSTM sets that looks up its history in a memory of 1,000 entries"),
    "opt2vec": (LearnedOptimizer(
        rule=NoRule(), base=AdamW(weight_decay=0.05), schedule=Constant(0.01),
        controller=History(length=5, hidden_size=32, embedding_size=16),
        tensors=TensorFeatures(groups=("log_loss", "gradient", "settings")), controls=Controls(gain=3.0)),
        "AdamW whose learning rate a tensor comes from its last 5 losses, gradient norms and rates"),
    "adamw_lstm": (_on_adamw(controllers.LSTM(hidden_size=32)),
                   "MLP residual on AdamW, under an LSTM a tensor"),
    "adamw_gru": (_on_adamw(controllers.GRU(hidden_size=32)), "MLP residual on AdamW, under a GRU a tensor"),
    "adamw_transformer": (_on_adamw(Transformer(hidden_size=32, num_layers=2, num_heads=4, sequence_length=16)),
                          "MLP residual on AdamW, under a transformer over tensors and steps"),
    "adamw_gnn": (_on_adamw(GNN(hidden_size=32, num_layers=2)),
                  "MLP residual on AdamW, under a graph network over the model's layers"),
    "adamw_trust": (_on_adamw(mixing=Trust()),
                    "MLP residual on AdamW, left alone for a while where its steps go astray"),
}


def named_design(name: str) -> LearnedOptimizer:
    """One of `DESIGNS`; `DesignError` names those that exist."""
    if name not in DESIGNS:
        raise DesignError(f"there is no design `{name}`. Designs: {', '.join(sorted(DESIGNS))}.")
    return DESIGNS[name][0]
