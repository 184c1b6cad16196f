"""Latent bits that were drawn elsewhere, on an annealer for example, decoded into a shower file."""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from calo4pqvae.errors import DataError
from calo4pqvae.models.model import Draws
from calo4pqvae.models.qvae.trained import TrainedModel
from calo4pqvae.runs.generation import stream_showers

__all__ = ["decode_bits"]


def decode_bits(
    model: TrainedModel,
    energies: Tensor,
    bits: Tensor,
    out: Path,
    *,
    seed: int,
    attributes: Mapping[str, str | int | float],
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Decodes bits of the Boltzmann machine into a shower file.

    Args:
        model: The model.
        energies: Incident energies (n, 1) in MeV.
        bits: Latent bits (n, n_bits).
        out: File to write.
        seed: Seed of the decoder's draws.
        attributes: What the file shall say of the bits.
        progress: Called with showers done and to do.

    Returns:
        Showers per second.

    Raises:
        DataError: If there are not as many bits as energies, or the bits are those of another machine.
        OutputError: If the file cannot be written; what stood there before is untouched.
    """
    if bits.shape != (len(energies), model.prior.n_bits):
        raise DataError(
            f"bits of shape {tuple(bits.shape)} for {len(energies)} showers of {model.prior.n_bits} bits: give one "
            "row a shower"
        )
    size = model.config.generation.chunk

    def decoded(part: Tensor, draws: Draws) -> Tensor:
        own = bits[draws.chunk * size : draws.chunk * size + len(part)].to(model.device)
        return model.decode(own, part, "boltzmann", draws)

    return stream_showers(model, energies, out, decoded, seed=seed, attributes=attributes, progress=progress)
