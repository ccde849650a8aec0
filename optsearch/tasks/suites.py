"""Which tasks are for meta-training, for looking at them on the way and for reports alone: they never mix."""

from collections.abc import Sequence
from dataclasses import dataclass

from optsearch.errors import TaskError
from optsearch.tasks.registry import BY_DOMAIN

STANDARD = "standard"


@dataclass(frozen=True)
class Roles:
    """`held_out` is for reports alone. A study of the domain learns on all others, a benchmark on `meta_training`."""

    meta_training: tuple[str, ...]
    validation: tuple[str, ...]
    held_out: tuple[str, ...]


# Held-out tasks are other networks or other problems than those learned on; data sets are few and are shared.
ROLES: dict[str, Roles] = {
    "vision": Roles(("digits_mlp", "digits_autoencoder", "patches_mlp"), ("patches_cnn",),
                    ("digits_cnn", "digits_vit", "patches_autoencoder")),
    "nlp": Roles(("chars_gru", "bpe_transformer", "code_bag"), ("bpe_gru",),
                 ("chars_lstm", "chars_transformer", "code_cnn")),
    "speech": Roles(("keywords_mlp", "pitch_mlp"), ("keywords_gru",), ("keywords_cnn",)),
    "tabular": Roles(("tabular_mlp", "tabular_linear"), ("regression_mlp",), ("tabular_resnet",)),
    "scientific": Roles(("siren_image", "matrix_factorization"), ("pinn_poisson",), ("pinn_burgers", "graph_network")),
    "synthetic": Roles(("quadratics", "spectra", "logistic_regression"), ("rosenbrock",),
                       ("rastrigin", "noisy_gradients", "sparse_gradients")),
}


def roles(domain: str) -> Roles:
    """The standard split of a domain's tasks; `TaskError` names the domains."""
    if domain not in ROLES:
        raise TaskError(f"there is no domain `{domain}`. Domains: {', '.join(BY_DOMAIN)}.")
    return ROLES[domain]


def suite(name: str) -> tuple[str, ...]:
    """The held-out tasks of all domains ("standard") or of one."""
    domains: Sequence[str] = tuple(ROLES) if name == STANDARD else (name,)
    if name != STANDARD and name not in ROLES:
        raise TaskError(f"there is no suite `{name}`. Suites: {', '.join([STANDARD, *ROLES])}.")
    return tuple(task for domain in domains for task in roles(domain).held_out)
