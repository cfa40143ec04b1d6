"""The noise of the state kernel, an object of its own: independent given (o, z), centred at zero, not squashed."""

import math

import torch as th
from torch import nn

from sb3_s2pg.common.named import resolve_class

STD_TYPES = ("state_dependent", "constant", "fixed")
# Half the width of a uniform distribution of std 1
SQRT3 = math.sqrt(3)


class StateNoise(nn.Module):
    """
    Base class of noises of the state kernel: zero on average, of the std ``scale * std``, the scale being the kernel's.
    A new noise needs ``sample`` and ``evaluate``.

    :param input_dim: Size of x, the input of the kernel
    :param state_dim: Size of the internal state z
    :param log_std_init: Initial log std
    :param log_std_min: Lower bound of the log std, and floor of the scaled one:
        without it the density of z' would be unbounded
    :param log_std_max: Upper bound of the log std
    :param std_type: "state_dependent" (learned, a linear function of (x, z)), "constant" (learned, one per entry) or
        "fixed" (not learned)
    :raises ValueError: if the initial log std is not within the bounds, or there is no such type
    """

    # Whether the score function (the gradient of the log density, which is what PPO learns from) says where to go
    has_score = True

    def __init__(
        self,
        input_dim: int,
        state_dim: int,
        log_std_init: float = -3.0,
        log_std_min: float = -5.0,
        log_std_max: float = 2.0,
        std_type: str = "state_dependent",
    ):
        super().__init__()
        if not log_std_min <= log_std_init <= log_std_max:
            raise ValueError(f"log_std_init={log_std_init} has to lie between {log_std_min} and {log_std_max}")
        if std_type not in STD_TYPES:
            raise ValueError(f"std_type={std_type!r} must be one of {list(STD_TYPES)}")
        self.log_std_min = log_std_min
        self.log_std_max = log_std_max
        self.std_type = std_type
        self.log_std: nn.Linear | nn.Parameter
        if std_type == "state_dependent":
            self.log_std = nn.Linear(input_dim + state_dim, state_dim)
            # Start state-independent: what is a good std where is not known yet
            nn.init.zeros_(self.log_std.weight)
            nn.init.constant_(self.log_std.bias, log_std_init)
        else:
            self.log_std = nn.Parameter(th.full((state_dim,), float(log_std_init)), requires_grad=std_type == "constant")

    def forward(self, inputs: th.Tensor, states: th.Tensor, scale: th.Tensor | None = None) -> th.Tensor:
        """
        :param inputs: x, shape (batch, input_dim)
        :param states: z, shape (batch, state_dim)
        :param scale: What the kernel multiplies the noise by, shape (batch, state_dim)
        :return: Std of the noise, shape (batch, state_dim)
        """
        log_std = self.log_std if isinstance(self.log_std, nn.Parameter) else self.log_std(th.cat([inputs, states], dim=1))
        std = log_std.clamp(self.log_std_min, self.log_std_max).exp()
        return std.expand_as(states) if scale is None else (std * scale).clamp(min=math.exp(self.log_std_min))

    def sample(self, std: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param std: Std of the noise, shape (batch, state_dim)
        :return: the noise and, entry by entry, its log density, shape (batch, state_dim) each
        """
        raise NotImplementedError()

    def sample_noise(self, std: th.Tensor) -> th.Tensor:
        """
        :param std: Std of the noise, shape (batch, state_dim)
        :return: The noise alone, shape (batch, state_dim)
        """
        return self.sample(std)[0]

    def evaluate(self, noise: th.Tensor, std: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param noise: The noise, shape (batch, state_dim)
        :param std: Its std, shape (batch, state_dim)
        :return: its log density and its entropy, shape (batch,) each
        """
        raise NotImplementedError()


class GaussianStateNoise(StateNoise):
    """Gaussian noise: ``noise ~ N(0, (scale * std)^2)``. Parameters are those of ``StateNoise``."""

    def sample(self, std: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        return sample_gaussian(std)

    def sample_noise(self, std: th.Tensor) -> th.Tensor:
        return std * th.randn_like(std)

    def evaluate(self, noise: th.Tensor, std: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        log_std, normalized = std.log(), noise / std
        volume = 0.5 * math.log(2 * math.pi) * std.shape[1]
        log_density = -th.addcmul(log_std, normalized, normalized, value=0.5).sum(dim=1) - volume
        return log_density, log_std.sum(dim=1) + (volume + 0.5 * std.shape[1])


class UniformStateNoise(StateNoise):
    """
    Uniform noise: as likely everywhere within sqrt(3) stds of the mean (paper, Experiment 2). Parameters are those of
    ``StateNoise``.

    S2PGPPO and S2PGTRPO refuse it: the density does not depend on the mean inside of the support, so its score is zero there.
    """

    has_score = False

    def sample(self, std: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        return self.sample_noise(std), -th.log(2 * SQRT3 * std)

    def sample_noise(self, std: th.Tensor) -> th.Tensor:
        return SQRT3 * std * (2 * th.rand_like(std) - 1)

    def evaluate(self, noise: th.Tensor, std: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        entropy = th.log(2 * SQRT3 * std)
        log_density = th.where(noise.abs() <= SQRT3 * std, -entropy, -math.inf)
        return log_density.sum(dim=1), entropy.sum(dim=1)


NOISES: dict[str, type[StateNoise]] = {"gaussian": GaussianStateNoise, "uniform": UniformStateNoise}


def get_noise_class(noise: str | type[StateNoise]) -> type[StateNoise]:
    """
    :param noise: Name of a noise of this package, or a class derived from ``StateNoise``
    :return: The class
    :raises ValueError: if there is no such noise
    """
    return resolve_class("state_noise_class", noise, NOISES, StateNoise, "a state noise")


def sample_gaussian(std: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Reparametrised sample of a centred Gaussian.

    :param std: Its std, shape (batch, dim)
    :return: the sample and, entry by entry, its log density, shape (batch, dim) each
    """
    epsilon = th.randn_like(std)
    return std * epsilon, -0.5 * epsilon.square() - std.log() - 0.5 * math.log(2 * math.pi)
