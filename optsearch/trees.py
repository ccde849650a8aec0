"""A tree is a flat `dict[str, Tensor]`; here it becomes one vector or one file, and comes back."""

import hashlib
import json
import os
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import prod
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from optsearch.errors import FileError

Tree = dict[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]
Metadata = dict[str, str]

CHECKSUM = "checksum"
# A tree's order is part of it (`ravel` follows it), and safetensors keeps none.
ORDER = "order"


def shapes_of(tree: Tree, batch_dims: int = 0) -> dict[str, tuple[int, ...]]:
    """The shape of every leaf without its first `batch_dims` dimensions."""
    return {name: tuple(leaf.shape[batch_dims:]) for name, leaf in tree.items()}


def ravel(tree: Tree, batch_dims: int = 0) -> Tensor:
    """All leaves as one tensor `[*batch, n]`, in the tree's own order."""
    return torch.cat([leaf.flatten(batch_dims) if leaf.dim() > batch_dims else leaf[..., None]
                      for leaf in tree.values()], dim=-1)


def unravel(vector: Tensor, shapes: Shapes) -> Tree:
    """Views of `vector` `[*batch, n]` as leaves `[*batch, *shape]`; the inverse of `ravel`."""
    parts = vector.split([prod(shape) for shape in shapes.values()], dim=-1)
    return {name: part.unflatten(-1, shape) if shape else part.squeeze(-1)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def map_leaves(change: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """The tree with `change` applied to every leaf."""
    return {name: change(leaf) for name, leaf in tree.items()}


def added(one: Tree, other: Tree) -> Tree:
    """Leaf by leaf."""
    return dict(zip(one, torch._foreach_add(list(one.values()), [other[name] for name in one]), strict=True))


def prefixed(prefix: str, tree: Tree) -> Tree:
    """The tree with `prefix.` before each name; see `within`."""
    return {f"{prefix}.{name}": leaf for name, leaf in tree.items()}


def within(prefix: str, tree: Tree) -> Tree:
    """The leaves whose names begin with `prefix.`, without it."""
    start = len(prefix) + 1
    return {name[start:]: leaf for name, leaf in tree.items() if name.startswith(f"{prefix}.")}


def checksum(tree: Tree, metadata: Metadata) -> str:
    """SHA-256 over names, types, shapes, bytes and metadata."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tree):
        leaf = tree[name].detach().cpu().contiguous()
        digest.update(f"{name} {leaf.dtype} {tuple(leaf.shape)}".encode())
        digest.update(leaf.view(-1).view(torch.uint8).numpy().tobytes() if leaf.numel() else b"")
    return digest.hexdigest()


def save(path: Path, tree: Tree, metadata: Metadata) -> None:
    """Write a safetensors file that carries its own checksum: whole, or not at all.

    Raises `FileError` when the place can't be written or the disk is full; what stood there before stays.
    """
    # safetensors refuses leaves that share memory.
    tree = {name: leaf.detach().cpu().contiguous().clone() for name, leaf in tree.items()}
    metadata = metadata | {ORDER: json.dumps(list(tree))}
    marked = metadata | {CHECKSUM: checksum(tree, metadata)}
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(draft, "wb") as file:
            file.write(safetensors.torch.save(tree, metadata=marked))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        raise FileError(f"{path} could not be written: {error.strerror or error}. "
                        "Free some space or choose another place; nothing there was changed.") from error
    finally:
        with suppress(OSError):
            draft.unlink()


def load(path: Path) -> tuple[Tree, Metadata]:
    """Read back what `save` wrote.

    Raises `FileError` when the file is missing, is not safetensors (a pickle, say), or fails its checksum.
    Nothing in the file is run.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise FileError(f"{path} could not be read: {error.strerror or error}.") from error
    try:
        tree = safetensors.torch.load(content)
        header = json.loads(content[8:8 + struct.unpack("<Q", content[:8])[0]])
        metadata = header.get("__metadata__", {})
    except (safetensors.SafetensorError, struct.error, ValueError, KeyError) as error:
        what = ("is a pickle or a zip made by torch.save, which could run code" if _looks_like_pickle(content)
                else "is not a whole safetensors file")
        raise FileError(f"{path} {what}; expected a file written by optsearch. Export it again.") from error
    stated = metadata.pop(CHECKSUM, None)
    if stated is None:
        raise FileError(f"{path} is a safetensors file of somebody else's; expected one written by optsearch.")
    if stated != checksum(tree, metadata):
        raise FileError(f"{path} is damaged: its checksum does not match. Export it again or use a copy.")
    return {name: tree[name] for name in json.loads(metadata.pop(ORDER))}, metadata


def _looks_like_pickle(content: bytes) -> bool:
    return content[:1] == b"\x80" or content[:2] == b"PK"
