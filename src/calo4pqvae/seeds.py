"""Independent random streams from one seed.

Each use of randomness has a stream of its own, named by what it is for and where in the work it stands (for example
``("noise", step)``). A stream depends on the seed and its name alone, never on what was drawn before: work that is
resumed, or shared among processes, draws the same numbers as work done in one go.
"""

import hashlib

import torch

__all__ = ["derive_seed", "stream"]


def derive_seed(seed: int, *name: str | int) -> int:
    """A 63-bit seed for the stream ``name`` of the run with seed ``seed``."""
    text = "/".join(str(part) for part in (seed, *name))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: int, *name: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for the stream ``name``, on ``device``."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *name))
