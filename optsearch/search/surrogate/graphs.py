"""Graphs of designs as vectors of counts: the features of a Weisfeiler-Lehman kernel."""

import hashlib
from typing import Any

import networkx
import torch
from torch import Tensor

NUM_ROUNDS = 2
NUM_BUCKETS = 128
# Sizes are told apart by powers of two: exact ones are parameters, which have a kernel of their own.
SIZE = "num_weights"


def graph_features(graph: "networkx.DiGraph[str]") -> Tensor:
    """Counts `[3 · NUM_BUCKETS]` of the nodes' labels and of their neighbourhoods one and two edges wide, of norm 1.

    The dot product of two such vectors is a Weisfeiler-Lehman subtree kernel (Shervashidze et al. 2011,
    https://jmlr.org/papers/v12/shervashidze11a.html; on architectures: Ru et al. 2021,
    https://arxiv.org/abs/2006.07556), with labels hashed into buckets. Edges have a direction.
    """
    labels = {node: _label(attributes) for node, attributes in graph.nodes(data=True)}
    counts = [_counts(labels.values())]
    for _ in range(NUM_ROUNDS):
        labels = {node: " ".join([labels[node], "<", *sorted(labels[other] for other in graph.predecessors(node)),
                                  ">", *sorted(labels[other] for other in graph.successors(node))])
                  for node in graph}
        labels = {node: f"{_hash(label):x}" for node, label in labels.items()}
        counts.append(_counts(labels.values()))
    return torch.cat(counts) / len(counts) ** 0.5


def _label(attributes: dict[str, Any]) -> str:
    """What a node is, without its numbers."""
    words = [f"{name}={value}" for name, value in sorted(attributes.items()) if isinstance(value, (str, bool))]
    return " ".join([*words, f"2^{int(attributes.get(SIZE, 0)).bit_length()}"])


def _counts(labels: Any) -> Tensor:
    buckets = torch.tensor([_hash(label) % NUM_BUCKETS for label in labels])
    # Roots, so that what a graph has many of does not hide the rest.
    counts = torch.bincount(buckets, minlength=NUM_BUCKETS).double().sqrt()
    return counts / counts.norm().clamp(min=1e-12)


def _hash(label: str) -> int:
    return int.from_bytes(hashlib.blake2b(label.encode(), digest_size=8).digest(), "big")
