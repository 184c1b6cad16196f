r"""The splitting cascade: the voxels of a shower given the energies of its layers.

.. math:: p(\text{voxels} \mid E_1 \dots E_L, E) = \prod_{\text{layers}} \prod_{\text{turns}} \prod_{\text{blocks}}
          p(e_\text{left} \mid e, \text{context})

Layers follow each other in depth; in each the energy is split down a binary tree
(:mod:`~calo4pqvae.models.qvae.cascade.tree`), by the law of :mod:`~calo4pqvae.models.qvae.cascade.law` with parameters
from one small network a turn, which sees what is around the block in its own layer and what the layers before had there
(:mod:`~calo4pqvae.models.qvae.cascade.kernels.pyramids`). The likelihood is exact; layer energies are conserved; a
voxel is 0 or at least the threshold. Learning needs true showers only, neither bits nor prior, and no generation.

**Symmetry.** The tree has a first sector; showers have none. True showers are turned and mirrored at random in
learning, and drawn ones at the end, so that the law of what is drawn has the symmetry exactly.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.nn import functional

from calo4pqvae.config import CascadeConfig
from calo4pqvae.models.qvae.cascade.compiled_law import split_log_likelihood
from calo4pqvae.models.qvae.cascade.kernels.draws import uniforms
from calo4pqvae.models.qvae.cascade.kernels.pyramids import (
    DECAYS,
    LAGS,
    add_layer,
    count_up,
    fill_contexts,
    n_context,
    sum_up,
)
from calo4pqvae.models.qvae.cascade.kernels.sampling import draw_showers
from calo4pqvae.models.qvae.cascade.law import BIN_WIDTH, N_BINS, Spectra, SplitLaw, n_outputs
from calo4pqvae.models.qvae.cascade.tree import LayerTree, layer_tree
from calo4pqvae.models.qvae.observables import Observables, ShowerView
from calo4pqvae.showers.geometry import Geometry

__all__ = ["Cascade"]

_N_NUMBERS = 9
_SLOPE = 0.1
_UNBEND = 0.25
_SIDE_BY_SIDE = 64  # showers drawn at a time: their pyramids stay in the cache

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Pyramids:
    """What the contexts of a batch of true showers are read from; see the kernels."""

    energies: Array
    logs: Array
    running: Array
    counts: Array
    numbers: Array


class Cascade(nn.Module):
    """Law of the voxels given the layers' energies (``decoder.kind = "cascade"``).

    Args:
        config: Sizes.
        geometry: A regular grid.
        energy_range: Ends of the incident energies in MeV.

    Raises:
        DataError: If the grid is not regular.
    """

    def __init__(self, config: CascadeConfig, geometry: Geometry, energy_range: tuple[float, float]) -> None:
        super().__init__()
        self.n_layers, n_angles, n_rings = geometry.grid_shape
        self.geometry = geometry
        self.threshold = geometry.threshold_mev
        self.n_logistic = config.components
        self.tree = layer_tree(n_angles, n_rings)
        self._tables = _Tables.of(self.tree)
        self._middle = 0.5 * sum(np.log(energy_range))
        n_in, n_hidden = n_context(n_rings, _N_NUMBERS), config.hidden
        n_out, n_turns = n_outputs(config.components, config.spectra), len(self.tree.turns)
        self.first = nn.Parameter((3 / n_in) ** 0.5 * (2 * torch.rand(n_turns, n_in, n_hidden) - 1))
        self.first_bias = nn.Parameter(torch.zeros(n_turns, n_hidden))
        self.second = nn.Parameter((3 / n_hidden) ** 0.5 * (2 * torch.rand(n_turns, n_hidden, n_hidden) - 1))
        self.second_bias = nn.Parameter(torch.zeros(n_turns, n_hidden))
        self.last = nn.Parameter(0.01 * torch.randn(n_turns, n_hidden, n_out))
        self.last_bias = nn.Parameter(_last_bias(config.components, config.spectra).repeat(n_turns, 1))
        self.direct = nn.Parameter(torch.zeros(n_turns, n_in, n_out))
        self.spectra = nn.Parameter(torch.zeros(config.spectra, N_BINS))

    is_learned_apart = True

    @torch.no_grad()
    def start_spectra(self, showers: Tensor) -> None:
        """Starts the spectra at those of hits in groups of rings, from the outer ones inwards, (n, V) in MeV."""
        layers, angles, rings = self.n_layers, self.tree.n_angles, self.tree.n_rings
        cells = (showers / self.threshold).view(-1, layers, angles, rings)
        groups = np.array_split(np.arange(rings)[::-1], len(self.spectra))
        for spectrum, group in zip(self.spectra, groups, strict=True):
            own = cells[..., group.copy()]
            logs = own[own >= 1].log()
            spectrum.copy_((torch.histc(logs, N_BINS, 0, N_BINS * BIN_WIDTH) + 1).log())

    def start(self, observables: Observables) -> None:
        """Nothing: the stage of the cascade starts it from showers."""

    def nll(self, bits: Tensor, view: ShowerView) -> tuple[Tensor, Tensor]:
        """Minus the mean log-likelihood in nats, hits and energies together, density in y; there are no hits apart."""
        del bits
        showers = view.voxels.exp() * view.hits * self.threshold
        nats = -self.log_likelihood(showers, view.incident_energies).mean()
        return torch.zeros_like(nats), nats

    def draw(self, bits: Tensor, view: ShowerView, layer_energies: Tensor, generator: Generator) -> Tensor:
        """Voxels (B, V) in MeV, turned and mirrored at random."""
        del bits
        showers = self.sample(layer_energies, view.incident_energies, generator)
        return self.turned(showers, generator)

    def turned(self, showers: Tensor, generator: Generator) -> Tensor:
        """Showers (B, V), each turned about the beam and mirrored or not, at random."""
        n, angles = len(showers), self.tree.n_angles
        device = generator.device
        shift = torch.randint(angles, (n, 1), generator=generator, device=device)
        sign = 1 - 2 * torch.randint(2, (n, 1), generator=generator, device=device)
        places = (sign * (torch.arange(angles, device=device) - shift)) % angles
        index = places[:, None, :, None].expand(-1, self.n_layers, -1, self.tree.n_rings)
        grid = showers.view(n, self.n_layers, angles, -1)
        turned: Tensor = grid.gather(2, index.to(showers.device)).flatten(1)
        return turned

    def log_likelihood(self, showers: Tensor, incident_energies: Tensor) -> Tensor:
        """Log-likelihood of the voxels given the layers, in nats, with a density in y = ln(e_L/e_R) a split.

        Args:
            showers: (B, V) in MeV; voxels are 0 or at least the threshold.
            incident_energies: (B, 1) in MeV.

        Returns:
            (B,), differentiable in the parameters.
        """
        pyramids = self._pyramids(showers, incident_energies)
        shares = self.spectra.softmax(1)
        total = showers.new_zeros(len(showers))
        nets = zip(*(values.unbind(0) for values in self._weights()), strict=True)
        for turn, net in enumerate(nets):
            batch, contexts, energies = self._examples(pyramids, turn)
            told = split_log_likelihood(_network(contexts, net), shares, energies, self.n_logistic)
            total = total.index_add(0, batch, told)
        return total

    def log_jacobian(self, showers: Tensor, incident_energies: Tensor) -> Tensor:
        """What turns the density in y of :meth:`log_likelihood` into one in voxel energies (in thresholds), (B,)."""
        pyramids = self._pyramids(showers, incident_energies)
        total = showers.new_zeros(len(showers))
        for turn in range(len(self.tree.turns)):
            batch, _, (energy, left, right) = self._examples(pyramids, turn)
            both = (left > 0) & (right > 0)
            change = energy[both].log() - left[both].log() - right[both].log()
            total = total.index_add(0, batch[both], change)
        return total

    @torch.no_grad()
    def sample(self, layer_energies: Tensor, incident_energies: Tensor, generator: Generator) -> Tensor:
        """Draws voxels, in the frame of the tree.

        Args:
            layer_energies: (B, L) in MeV, 0 or at least the threshold.
            incident_energies: (B, 1) in MeV.
            generator: Gives every shower a key of its own.

        Returns:
            Showers (B, V) in MeV, on the device of the layer energies; each layer has its energy.
        """
        keys = torch.randint(2**62, (len(layer_energies),), generator=generator, device=generator.device)
        layers = (layer_energies / self.threshold).cpu().float()
        numbers = self._numbers(layers, incident_energies.cpu()).numpy()
        cells = np.empty((len(layers), self.n_layers, len(self.tree.leaves)), dtype=np.float32)
        weights = tuple(weight.detach().cpu().numpy() for weight in self._weights())
        cumulative = Spectra.of(self.spectra.detach().double()).cumulative.cpu().numpy()
        told = keys.cpu().numpy().astype(np.uint64)
        for start in range(0, len(layers), _SIDE_BY_SIDE):
            own = slice(start, start + _SIDE_BY_SIDE)
            draw_showers(
                layers.numpy()[own],
                numbers[own],
                told[own],
                self._tables.turns,
                self.tree.leaves,
                self.tree.splits,
                weights,
                cumulative,
                BIN_WIDTH,
                self.n_logistic,
                cells[own],
            )
        showers = torch.from_numpy(cells.reshape(len(cells), -1)) * self.threshold
        floor = showers.new_tensor(self.threshold)
        return torch.where(showers > 0, torch.maximum(showers, floor), showers).to(layer_energies.device)

    @torch.no_grad()
    def sample_plainly(self, layer_energies: Tensor, incident_energies: Tensor, generator: Generator) -> Tensor:
        """The same draws as :meth:`sample` in plain PyTorch, turn by turn through the teacher's contexts; slow.

        The reference that the compiled loops are tested against: same keys, same counters, so same showers but for
        rounding.
        """
        keys = torch.randint(2**62, (len(layer_energies),), generator=generator, device=generator.device)
        layers = (layer_energies / self.threshold).cpu().float()
        cells = torch.zeros(len(layers), self.n_layers, len(self.tree.leaves))
        spectra, weights = Spectra.of(self.spectra.detach()), self._weights()
        width = self.tree.n_blocks + 1
        for layer in range(self.n_layers):
            blocks = torch.zeros(len(layers), width)
            blocks[:, 0] = layers[:, layer]
            for number, turn in enumerate(self.tree.turns):
                pyramids = self._unfinished(cells, layers, incident_energies.cpu(), layer, blocks)
                batch, place = (blocks[:, turn.nodes] > 0).nonzero(as_tuple=True)
                if not len(batch):
                    continue
                contexts = self._contexts(pyramids, number, batch.numpy(), np.full(len(batch), layer), place.numpy())
                law = SplitLaw(_network(contexts, [weight[number] for weight in weights]), spectra, self.n_logistic)
                nodes = turn.nodes[place.numpy()]
                drawn = uniforms(keys[batch].numpy().astype(np.uint64), layer * width + nodes)
                energy = blocks[batch, nodes]
                left = law.draw(energy, torch.from_numpy(drawn))
                blocks[batch, turn.left[place.numpy()]] = left
                blocks[batch, turn.right[place.numpy()]] = energy - left
            cells[:, layer] = blocks[:, self.tree.leaves]
        return cells.flatten(1) * self.threshold

    def _weights(self) -> list[Tensor]:
        return [
            self.first,
            self.first_bias,
            self.second,
            self.second_bias,
            self.last,
            self.last_bias,
            self.direct,
        ]

    def _numbers(self, layers: Tensor, incident_energies: Tensor) -> Tensor:
        """Numbers of every layer (B, L, 9) from all layers' energies in thresholds (B, L)."""
        n = self.n_layers
        padded = functional.pad(torch.log1p(layers) * _UNBEND, (2, 2))
        before = layers.cumsum(1) - layers
        after = (layers.sum(1, keepdim=True) - before - layers).clamp(min=0)
        place = torch.arange(n, dtype=layers.dtype)
        columns = [
            *(padded[:, shift : shift + n] for shift in (2, 1, 3, 4)),
            torch.log1p(before.clamp(min=0)) * _UNBEND,
            torch.log1p(after) * _UNBEND,
            ((incident_energies.log() - self._middle) / 2).expand(-1, n),
            (2 * place / n - 1).expand(len(layers), -1),
            (place < 2).to(layers.dtype).expand(len(layers), -1),
        ]
        return torch.stack(columns, dim=-1).contiguous()

    def _pyramids(self, showers: Tensor, incident_energies: Tensor) -> _Pyramids:
        cells = (showers.detach() / self.threshold).cpu().view(len(showers), self.n_layers, -1)
        energies = np.zeros((*cells.shape[:2], self.tree.n_blocks + 1), dtype=np.float32)
        energies[..., self.tree.leaves] = cells.numpy()
        sum_up(energies, self.tree.splits)
        return self._read(energies, torch.from_numpy(energies[..., 0].copy()), incident_energies.cpu())

    def _unfinished(
        self, cells: Tensor, layers: Tensor, incident_energies: Tensor, layer: int, blocks: Tensor
    ) -> _Pyramids:
        """Pyramids of finished layers, the blocks that the present one has so far, and nothing behind it."""
        energies = np.zeros((*cells.shape[:2], self.tree.n_blocks + 1), dtype=np.float32)
        energies[..., self.tree.leaves] = cells.numpy()
        sum_up(energies, self.tree.splits)
        energies[:, layer] = blocks.numpy()
        return self._read(energies, layers, incident_energies)

    def _read(self, energies: Array, layers: Tensor, incident_energies: Tensor) -> _Pyramids:
        n, n_layers, width = energies.shape
        padded = (n, LAGS + n_layers, width)
        logs, counts = np.zeros(padded, dtype=np.float32), np.zeros(padded, dtype=np.float32)
        np.log1p(energies, out=logs[:, LAGS:])
        logs *= np.float32(_UNBEND)
        sums = np.zeros((len(DECAYS), n, width), dtype=np.float32)
        running = np.zeros((len(DECAYS), n, n_layers, width), dtype=np.float32)
        for layer in range(n_layers):
            count_up(energies[:, layer], self.tree.leaves, self.tree.splits, counts[:, LAGS + layer])
            add_layer(energies[:, layer], sums, running, layer)
        return _Pyramids(energies, logs, running, counts, self._numbers(layers, incident_energies).numpy())

    def _examples(self, pyramids: _Pyramids, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Showers (n,), contexts (n, k) and energies (3, n) of block, left and right, of blocks that have energy."""
        turn = self.tree.turns[number]
        batch, layer, place = np.nonzero(pyramids.energies[:, :, turn.nodes] > 0)
        contexts = self._contexts(pyramids, number, batch, layer, place)
        blocks = np.stack([turn.nodes, turn.left, turn.right])[:, place]
        energies = pyramids.energies[batch, layer, blocks]
        return torch.from_numpy(batch), contexts, torch.from_numpy(energies)

    def _contexts(
        self, pyramids: _Pyramids, number: int, batch: NDArray[Any], layer: NDArray[Any], place: NDArray[Any]
    ) -> Tensor:
        turn = self.tree.turns[number]
        contexts = np.empty((len(batch), self.first.shape[1]), dtype=np.float32)
        fill_contexts(
            batch,
            layer,
            place,
            pyramids.logs,
            pyramids.running,
            pyramids.counts,
            turn.around,
            turn.below,
            turn.beside,
            turn.rings,
            pyramids.numbers,
            contexts,
        )
        return torch.from_numpy(contexts)


@dataclass(frozen=True, eq=False)
class _Tables:
    """The tables of all turns, one after the other, as the compiled loops want them."""

    turns: tuple[NDArray[Any], ...]

    @classmethod
    def of(cls, tree: LayerTree) -> "_Tables":
        sizes = [len(turn.nodes) for turn in tree.turns]
        is_second = np.array([turn.beside.shape[1] > 0 for turn in tree.turns], dtype=np.bool_)
        beside = [
            turn.beside if turn.beside.shape[1] else np.full((len(turn.nodes), 6), tree.n_blocks) for turn in tree.turns
        ]
        columns = [
            np.concatenate([getattr(turn, name) for turn in tree.turns])
            for name in ("nodes", "left", "right", "around", "below")
        ]
        rings = np.concatenate([turn.rings for turn in tree.turns])
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return cls((starts, *columns, np.concatenate(beside), rings, is_second))


def _network(contexts: Tensor, weights: Any) -> Tensor:  # noqa: ANN401
    first, first_bias, second, second_bias, last, last_bias, direct = weights
    hidden = functional.leaky_relu(torch.addmm(first_bias, contexts, first), _SLOPE)
    deeper = functional.leaky_relu(torch.addmm(second_bias, hidden, second), _SLOPE)
    raw: Tensor = torch.addmm(torch.addmm(last_bias, deeper, last), contexts, direct)
    return raw


def _last_bias(n_logistic: int, n_spectra: int) -> Tensor:
    """Even outcomes and weights, centres spread over [-2, 2], widths of exp(-0.3)."""
    centres = torch.linspace(-1, 1, n_logistic) if n_logistic > 1 else torch.zeros(1)
    widths = torch.full((n_logistic,), -0.3)
    return torch.cat([torch.zeros(3 + n_logistic), centres, widths, torch.zeros(2 * n_spectra)])
