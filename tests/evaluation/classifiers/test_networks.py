"""Sizes of the challenge's networks, counted by hand, and what their layers see."""

import pytest
import torch

from calo4pqvae.evaluation.classifiers.networks import Perceptron, ResidualNetwork, Stem


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def size(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_perceptron_of_the_challenge() -> None:
    network = Perceptron(362, (2048, 2048, 2048), generator())
    assert size(network) == 363 * 2048 + 2 * 2049 * 2048 + 2049
    assert network(torch.zeros(5, 362)).shape == (5,)


def test_residual_network_of_the_challenge() -> None:
    network = ResidualNetwork((45, 16, 9), (32, 64, 64, 128), 2, Stem(), generator())
    stem = 343 * 32 + 2 * 32
    normal = 4 * (27 * 32 * 32 + 2 * 32)
    second = 27 * 32 * 64 + 3 * 27 * 64 * 64 + 32 * 64 + 5 * 2 * 64  # with a shortcut of 1 x 1 x 1
    third = 4 * 27 * 64 * 64 + 64 * 64 + 5 * 2 * 64
    fourth = 27 * 64 * 128 + 3 * 27 * 128 * 128 + 64 * 128 + 5 * 2 * 128
    assert size(network) == stem + normal + second + third + fourth + 129 + 1 + 2
    seen: list[torch.Size] = []
    network.groups.register_forward_hook(lambda _module, inputs, output: seen.extend([inputs[0].shape, output.shape]))
    assert network(torch.zeros(3, 6481)).shape == (3,)
    assert seen == [(3, 32, 12, 4, 3), (3, 128, 2, 1, 1)]  # 45 -> 23 -> 12, 16 -> 8 -> 4, 9 -> 5 -> 3


@pytest.mark.parametrize("shape", [(45, 16, 9), (45, 50, 18), (7, 5, 2), (1, 1, 1)])
def test_patches_cover_the_grid(shape: tuple[int, int, int]) -> None:
    """Every voxel moves the logit: none is lost at the edge of the patches."""
    network = ResidualNetwork(shape, (4, 8), 1, Stem.patches(shape), generator()).eval()
    inputs = torch.rand(2, 1 + shape[0] * shape[1] * shape[2], generator=generator(1)).requires_grad_()
    (field,) = torch.autograd.grad(network.stem[0](inputs[:, 1:].reshape(2, 1, *shape)).square().sum(), inputs)
    assert (field[:, 1:] != 0).all()
    positions = network.stem(torch.zeros(1, 1, *shape)).shape[2:]
    assert all(found <= most + 1 for found, most in zip(positions, (9, 4, 3), strict=True))


def test_the_energy_joins_before_the_last_layer() -> None:
    network = ResidualNetwork((4, 4, 3), (4, 8), 1, Stem.patches((4, 4, 3)), generator()).eval()
    inputs = torch.rand(6, 49, generator=generator(1))
    moved = inputs.clone()
    moved[:, 0] += 1.0
    change = (network(moved) - network(inputs)).detach()
    expected = float(network.last.weight[0, -1].detach() / (1 + network.energy_norm.eps) ** 0.5)
    torch.testing.assert_close(change, torch.full((6,), expected), rtol=1e-4, atol=1e-6)


def test_first_weights_come_from_the_generator() -> None:
    def weights(seed: int) -> torch.Tensor:
        network = ResidualNetwork((4, 4, 3), (4, 8), 1, Stem(), generator(seed))
        return torch.cat([value.detach().flatten() for value in network.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
