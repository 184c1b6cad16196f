r"""Mean and width of quantities as functions of the incident energy."""

import torch
from torch import Tensor, nn

__all__ = ["MEAN_LOG_CHI2", "Standardiser"]

MEAN_LOG_CHI2 = -1.2704  # mean of ln x^2 for a standard normal x
_LEAST_EVENTS = 20


class Standardiser(nn.Module):
    r"""Mean and width as functions of the energy's position, one pair a column.

    .. math:: y = (x - m(t))/s(t), \quad m = \sum_{i \le 4} c_i t^i, \quad \ln s = \sum_{i \le 2} d_i t^i

    Both polynomials are kept within what was seen in the fit (the mean in the range of the values, ln s within 1.5 of
    its mean), so that a column with few events, seen at high energies only, stays tame at low ones.

    Args:
        n_columns: Number of quantities.
    """

    mean_coefficients: Tensor
    mean_range: Tensor
    log_std_coefficients: Tensor
    log_std_range: Tensor

    def __init__(self, n_columns: int) -> None:
        super().__init__()
        self.register_buffer("mean_coefficients", torch.zeros(5, n_columns))
        self.register_buffer("mean_range", torch.zeros(2, n_columns))
        self.register_buffer("log_std_coefficients", torch.zeros(3, n_columns))
        self.register_buffer("log_std_range", torch.zeros(2, n_columns))

    def fit(self, values: Tensor, position: Tensor, present: Tensor) -> None:
        """Fits both polynomials by least squares, in float64, where ``present`` is 1; shapes (N, columns), (N, 1)."""
        powers = _powers(position.double(), 5)
        for column in range(values.shape[1]):
            chosen = present[:, column] > 0
            if int(chosen.sum()) < _LEAST_EVENTS:
                continue
            basis, target = powers[chosen], values[chosen, column].double()
            mean = _ridge(basis, target)
            log_square = ((target - basis @ mean) ** 2 + 1e-12).log() - MEAN_LOG_CHI2
            level = float(log_square.mean() / 2)
            self.mean_coefficients[:, column] = mean.float()
            self.mean_range[:, column] = torch.stack([target.min(), target.max()]).float()
            self.log_std_coefficients[:, column] = (_ridge(basis[:, :3], log_square) / 2).float()
            self.log_std_range[:, column] = torch.tensor([level - 1.5, level + 1.5])

    def forward(self, values: Tensor, position: Tensor) -> Tensor:
        """Standardises (B, columns) values at positions (B, 1)."""
        mean, std = self._moments(position)
        return (values - mean) / std

    def inverse(self, standardised: Tensor, position: Tensor) -> Tensor:
        """Undoes :meth:`forward`."""
        mean, std = self._moments(position)
        return standardised * std + mean

    def _moments(self, position: Tensor) -> tuple[Tensor, Tensor]:
        powers = _powers(position, 5)
        mean = (powers @ self.mean_coefficients).clamp(self.mean_range[0], self.mean_range[1])
        log_std = (powers[:, :3] @ self.log_std_coefficients).clamp(self.log_std_range[0], self.log_std_range[1])
        return mean, log_std.exp()


def _powers(position: Tensor, n: int) -> Tensor:
    return torch.cat([position**power for power in range(n)], dim=1)


def _ridge(basis: Tensor, target: Tensor) -> Tensor:
    """Least squares with a little weight against every power but the constant."""
    weights = torch.ones(basis.shape[1], dtype=basis.dtype)
    weights[0] = 1e-6
    gram = basis.T @ basis + torch.diag(weights)
    solution: Tensor = torch.linalg.solve(gram, basis.T @ target)
    return solution
