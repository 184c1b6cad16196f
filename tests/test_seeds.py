import itertools
import subprocess
import sys

import torch

from calo4pqvae.seeds import derive_seed, stream


def test_a_stream_depends_on_seed_and_name_alone() -> None:
    first = torch.rand(5, generator=stream(1, "noise", 3))
    _ = torch.rand(1000, generator=stream(1, "noise", 2))
    assert torch.equal(torch.rand(5, generator=stream(1, "noise", 3)), first)


def test_streams_differ_in_seed_purpose_and_place() -> None:
    names = itertools.product((0, 1, 2), ("noise", "order"), range(200))
    seeds = [derive_seed(seed, purpose, step) for seed, purpose, step in names]
    assert len(set(seeds)) == len(seeds)
    assert derive_seed(1, "order", 12) != derive_seed(1, "order", 1, 2)
    assert derive_seed(11, 2) != derive_seed(1, 12)


def test_seeds_fit_into_63_bits_and_fill_them() -> None:
    seeds = [derive_seed(1, step) for step in range(2000)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    for bit in range(63):
        share = sum(seed >> bit & 1 for seed in seeds) / len(seeds)
        assert abs(share - 0.5) < 5 * 0.5 / len(seeds) ** 0.5


def test_neighbouring_streams_are_uncorrelated() -> None:
    draws = torch.stack([torch.randn(500, generator=stream(1, "noise", step)) for step in range(40)])
    correlation = torch.corrcoef(draws) - torch.eye(40)
    assert correlation.abs().max() < 6 / 500**0.5


def test_seeds_are_the_same_in_every_process() -> None:
    """Unlike Python's own hash of text, which is salted."""
    code = "from calo4pqvae.seeds import derive_seed; print(derive_seed(7, 'split', 3))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) == derive_seed(7, "split", 3)
