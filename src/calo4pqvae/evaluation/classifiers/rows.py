"""Rows of two samples with their labels, batch by batch, as a classifier is trained on them."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from calo4pqvae.evaluation.classifiers.data import ClassifierInput, Split, VoxelInput

__all__ = ["LabelledRows", "Standardiser"]

_CHUNK = 1000
_MOST_BYTES_IN_MEMORY = 2**30
_LEAST_VOXEL_SPREAD = 0.1
_LEAST_VARIANCE = 1e-4


class LabelledRows:
    """One part of a split: first the reference showers, labelled 1, then the generated ones, labelled 0.

    Inputs of up to 1 GiB are unpacked once; larger ones a batch at a time, whenever they are asked for.

    Args:
        reference: The reference sample.
        generated: The generated sample.
        split: Which rows are in which part.
        part: ``train``, ``test`` or ``validation``.
        dtype: Of the inputs.
        device: Where batches go.
    """

    def __init__(
        self,
        reference: ClassifierInput,
        generated: ClassifierInput,
        split: Split,
        part: str,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.samples = (reference, generated)
        self.indices = (split.reference[part], split.generated[part])
        self.labels = split.labels(part)
        self.dtype = dtype
        self.device = device
        self._targets = torch.from_numpy(self.labels).to(dtype)
        self._held: Tensor | None = None
        if len(self) * reference.n_inputs * dtype.itemsize <= _MOST_BYTES_IN_MEMORY:
            self._held = torch.cat([self._unpack(positions) for positions in self._chunks()]).to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows in order."""
        for positions in self._chunks():
            yield self.batch(positions)

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (rows, n_inputs) and labels (rows,) at some positions."""
        labels = self._targets[positions].to(self.device)
        if self._held is not None:
            return self._held[positions.to(self.device)], labels
        return self._unpack(positions).to(self.device), labels

    def _chunks(self) -> Iterator[Tensor]:
        for start in range(0, len(self), _CHUNK):
            yield torch.arange(start, min(start + _CHUNK, len(self)))

    def _unpack(self, positions: Tensor) -> Tensor:
        where = positions.numpy()
        n_reference = len(self.indices[0])
        inputs = torch.empty(len(where), self.samples[0].n_inputs, dtype=self.dtype)
        for label, (sample, rows) in enumerate(zip(self.samples, self.indices, strict=True)):
            mine = where >= n_reference if label else where < n_reference
            if mine.any():
                inputs[torch.from_numpy(mine)] = sample.batch(rows[where[mine] - label * n_reference], self.dtype)
        return inputs


class Standardiser(nn.Module):
    """Brings inputs to mean 0 and standard deviation 1, and decorrelates them if that is asked for.

    Args:
        mean: Of each input, (n_inputs,).
        scale: What to multiply each by after the mean is taken away, (n_inputs,).
        rotation: Carries scaled inputs to uncorrelated ones, (n_inputs, n_inputs); None to leave them.
    """

    def __init__(self, mean: Tensor, scale: Tensor, rotation: Tensor | None = None) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.rotation: Tensor | None
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.register_buffer("rotation", rotation)

    @classmethod
    def of(cls, rows: LabelledRows, is_decorrelated: bool) -> "Standardiser":
        """Fits to all rows.

        What does not vary keeps its scale. Of voxels, a spread smaller than a tenth of the largest one counts as that:
        a voxel that is hardly ever hit must not be blown up when it is. Directions of less than 1e-4 of the variance of
        an input are not blown up further than that.
        """
        mean = sum((inputs.double().sum(dim=0) for inputs, _ in rows), _zeros(rows)) / len(rows)
        square = sum(((inputs.double() - mean).square().sum(dim=0) for inputs, _ in rows), _zeros(rows))
        spread = (square / len(rows)).sqrt()
        if isinstance(rows.samples[0], VoxelInput):
            spread[1:].clamp_(min=_LEAST_VOXEL_SPREAD * float(spread[1:].max()))
        spread[spread <= 1e-9 * mean.abs()] = 1.0
        scaler = cls(mean.to(rows.dtype), (1 / spread).to(rows.dtype))
        if not is_decorrelated:
            return scaler
        products = sum((scaled.T @ scaled for scaled in (scaler(inputs).double() for inputs, _ in rows)), _zeros(rows))
        variances, directions = torch.linalg.eigh(products / len(rows))
        rotation = directions / variances.clamp(min=_LEAST_VARIANCE).sqrt()
        return cls(scaler.mean, scaler.scale, rotation.to(rows.dtype))

    def forward(self, inputs: Tensor) -> Tensor:
        """Standardised inputs (batch, n_inputs)."""
        scaled = (inputs - self.mean) * self.scale
        return scaled if self.rotation is None else scaled @ self.rotation


def _zeros(rows: LabelledRows) -> Tensor:
    return torch.zeros(rows.samples[0].n_inputs, dtype=torch.float64, device=rows.device)
