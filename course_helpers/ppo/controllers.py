"""Numbers that live as long as a run: the KL coefficient β, and the running moments of the scores."""

from __future__ import annotations

import torch
from torch import Tensor

from course_helpers.checks import is_finite, require


class AdaptiveKLController:
    """Steers β so that the KL settles at a target (Ziegler et al. 2019, section 2.2).

    Args:
        init_kl_coef: β at the start.
        target: KL to reach, in nats a response.
        horizon: samples over which a deviation works; the smaller, the faster β moves.

    Examples:
        >>> beta = AdaptiveKLController(init_kl_coef=0.2, target=6.0, horizon=10)
        >>> beta.update(current=60.0, n_steps=5)  # far above the target: e is held at 0.2
        >>> round(beta.value, 6)
        0.22
    """

    def __init__(self, init_kl_coef: float, target: float, horizon: float):
        """Start at `init_kl_coef`."""
        require(is_finite(target) and target > 0, "target", target, "a number of nats above 0")
        require(is_finite(horizon) and horizon > 0, "horizon", horizon, "a number of samples above 0")
        self.value, self.target, self.horizon = float(init_kl_coef), target, horizon

    def update(self, current: float, n_steps: int) -> None:
        """β ← β (1 + e n / horizon), with e = KL / target − 1 held within ± 0.2.

        Args:
            current: KL seen, in nats a response.
            n_steps: n, samples seen.
        """
        error = min(max(current / self.target - 1.0, -0.2), 0.2)
        self.value *= 1.0 + error * n_steps / self.horizon


class FixedKLController:
    """β stays what it is.

    Args:
        kl_coef: β.
    """

    def __init__(self, kl_coef: float):
        """Keep `kl_coef`."""
        self.value = float(kl_coef)

    def update(self, current: float, n_steps: int) -> None:
        """Do nothing."""


class RunningMoments:
    """Mean and standard deviation of all scores seen, batch by batch.

    Chan, Golub and LeVeque 1979, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances".
    """

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.count, self.mean, self.var, self.std = 1e-24, 0.0, 1.0, 1.0

    def update(self, scores: Tensor) -> None:
        """Take in one batch of scores, (n,)."""
        n = scores.numel()
        mean, var = scores.mean().item(), scores.var(unbiased=False).item()
        delta, total = mean - self.mean, self.count + n
        self.var = (self.var * self.count + delta**2 * self.count * n / total + var * n) / total
        self.mean += delta * n / total
        self.count = total
        # a single score has no spread: 1 leaves it as it is
        self.std = (self.var * total / (total - 1.0)) ** 0.5 if total > 1.0 else 1.0

    def scale(self, scores: Tensor, shift_mean: bool) -> Tensor:
        """Scores over the running standard deviation, after the running mean is taken off if `shift_mean`."""
        return (scores - self.mean * shift_mean) / (self.std + torch.finfo(scores.dtype).eps)
