"""Independent streams of randomness, named by their purpose."""

import hashlib

import torch


def seed_for(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed that depends on `seed` and every word of `purpose`, the same on every machine."""
    words = "\x1f".join(str(word) for word in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator of its own for `purpose`: `generator(7, "trial", 3, "tasks")`."""
    return torch.Generator().manual_seed(seed_for(seed, *purpose))


def drawing_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """`generator` itself on a CPU; elsewhere one there that follows from it, so that nothing drawn is copied."""
    if device.type == "cpu":
        return generator
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)
