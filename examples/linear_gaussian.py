"""
Linear-Gaussian problems, where everything is known in closed form: what the examples share, and a task that needs memory.

A policy integrates what it sees and acts against it: m = W z + U o, a = K m + sigma_a e, z' = m + sigma_z e'. The state s is
seen and pushed by a force c, which is hidden and the same for the whole episode: s' = A s + b a + c + noise. The reward
exp(-(4 |s|^2 + 0.1 |a|^2) / 2 d) lies in (0, 1]. W = rho I, so rho is the norm of the Jacobian dz'/dz; the loop through the
environment is stable also where rho is a little above 1. All that happens is Gaussian with mean zero.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch as th

GAMMA = 0.99
ACTION_STD = 0.5
ENV_STD, FORCE_STD = 0.2, 0.3
STATE_COST, ACTION_COST = 4.0, 0.1
INPUT_GAIN = 0.5  # b


def covariances(transition: th.Tensor, noise: th.Tensor, start: th.Tensor, n_steps: int) -> list[th.Tensor]:
    """
    x' = M x + noise, from a Gaussian start.

    :param transition: M
    :param noise: Covariance of the noise
    :param start: Covariance of x at the first step
    :param n_steps: Number of steps
    :return: Covariance of x at every step, differentiable
    """
    result = [start]
    for _ in range(n_steps - 1):
        result.append(transition @ result[-1] @ transition.T + noise)
    return result


@dataclass(frozen=True)
class Setting:
    """A memory task: horizon T, dimension d of o, a and z, norm rho of dz'/dz, and sigma_z, which is 0 for BPTT."""

    horizon: int = 50
    dimension: int = 1
    norm: float = 1.0
    state_std: float = 0.3

    @property
    def environment(self) -> th.Tensor:
        """:return: A, symmetric with eigenvalues in [0.6, 0.9], its eigenvectors those of a discrete cosine transform"""
        d = self.dimension
        rows = th.arange(d, dtype=th.float64)
        vectors = th.cos(math.pi / d * (rows + 0.5) * rows[:, None]) * math.sqrt(2 / d)
        vectors[0] /= math.sqrt(2)
        values = th.linspace(0.6, 0.9, d, dtype=th.float64) if d > 1 else th.tensor([0.75], dtype=th.float64)
        return vectors.T @ th.diag(values) @ vectors

    @property
    def parameters(self) -> list[th.Tensor]:
        """:return: W, U and K"""
        eye = th.eye(self.dimension, dtype=th.float64)
        return [scale * eye for scale in (self.norm, 0.6, -1.0)]

    @property
    def reward_scales(self) -> tuple[float, float]:
        """:return: What s and a are multiplied by, so that the reward is exp(-|(s, a)|^2 / 2)"""
        return math.sqrt(STATE_COST / self.dimension), math.sqrt(ACTION_COST / self.dimension)


@dataclass
class Loop:
    """x = (s, c, z) follows x' = M x + noise; the rewards see y = L x + noise; m = N x."""

    transition: th.Tensor
    noise: th.Tensor
    look: th.Tensor
    look_noise: th.Tensor
    mean: th.Tensor
    start: th.Tensor


def closed_loop(setting: Setting, params: list[th.Tensor]) -> Loop:
    """
    :param setting: The problem
    :param params: W, U and K
    :return: The loop of policy and environment
    """
    from_state, from_obs, gain = params
    eye = th.eye(setting.dimension, dtype=th.float64)
    zero = th.zeros_like(eye)
    mean = th.cat([from_obs, zero, from_state], dim=1)
    act = gain @ mean
    transition = th.cat([th.cat([setting.environment, eye, zero], 1) + INPUT_GAIN * act, th.cat([zero, eye, zero], 1), mean])
    noise = th.block_diag((INPUT_GAIN**2 * ACTION_STD**2 + ENV_STD**2) * eye, zero, setting.state_std**2 * eye)
    state_scale, action_scale = setting.reward_scales
    look = th.cat([state_scale * th.cat([eye, zero, zero], dim=1), action_scale * act])
    look_noise = th.block_diag(zero, (action_scale * ACTION_STD) ** 2 * eye)
    return Loop(transition, noise, look, look_noise, mean, th.block_diag(eye, FORCE_STD**2 * eye, zero))


def objective(setting: Setting, params: list[th.Tensor]) -> th.Tensor:
    """
    :param setting: The problem
    :param params: W, U and K
    :return: J = sum_t gamma^t E r_t, where E exp(-|y|^2 / 2) = det(I + cov(y))^(-1/2)
    """
    loop = closed_loop(setting, params)
    result = th.zeros((), dtype=th.float64)
    for t, covariance in enumerate(covariances(loop.transition, loop.noise, loop.start, setting.horizon)):
        seen = loop.look @ covariance @ loop.look.T + loop.look_noise
        result = result + GAMMA**t * th.exp(-0.5 * th.logdet(th.eye(len(seen), dtype=th.float64) + seen))
    return result


def exact_gradient(setting: Setting) -> th.Tensor:
    """
    :param setting: The problem
    :return: Gradient of J in (W, U, K)
    """
    params = [p.requires_grad_() for p in setting.parameters]
    return th.cat([g.flatten() for g in th.autograd.grad(objective(setting, params), params)])


def expected_rewards(setting: Setting, loop: Loop, start: th.Tensor) -> Callable[[th.Tensor, int], th.Tensor]:
    """
    Exact values: from x with mean mu, E r_n = c_n exp(-|F_n mu|^2 / 2), the same at every step of the episode.

    :param setting: The problem
    :param loop: Its loop
    :param start: Covariance of x
    :return: Function of mu (batch, 3 d) and a number of steps, that gives the sum of gamma^n E r_n over that many steps
    """
    factors, heights, power = [], [], th.eye(len(start), dtype=th.float64)
    for n, covariance in enumerate(covariances(loop.transition, loop.noise, start, setting.horizon)):
        seen = loop.look @ covariance @ loop.look.T + loop.look_noise
        root = th.linalg.cholesky(th.eye(len(seen), dtype=th.float64) + seen)
        factors.append(th.linalg.solve_triangular(root, loop.look @ power, upper=False))
        heights.append(GAMMA**n / root.diagonal().prod().item())
        power = loop.transition @ power
    all_factors, all_heights = th.cat(factors).T.contiguous(), th.tensor(heights, dtype=th.float64)
    n_looks = 2 * setting.dimension

    def evaluate(means: th.Tensor, n_steps: int) -> th.Tensor:
        looks = (means @ all_factors[:, : n_steps * n_looks]).view(len(means), n_steps, n_looks)
        return th.exp(-0.5 * looks.square().sum(-1)) @ all_heights[:n_steps]

    return evaluate


@dataclass
class Episodes:
    """Episodes side by side; each tensor is (T, n, d), ``rewards`` (T, n)."""

    states: th.Tensor
    forces: th.Tensor
    internal_states: th.Tensor
    means: th.Tensor
    next_internal_states: th.Tensor
    actions: th.Tensor
    action_noise: th.Tensor
    state_noise: th.Tensor
    rewards: th.Tensor


def simulate(setting: Setting, n: int, generator: th.Generator) -> Episodes:
    """
    :param setting: The problem
    :param n: Number of episodes
    :param generator: Random numbers
    :return: What happens
    """
    shape = (setting.horizon, n, setting.dimension)
    action_noise, state_noise, env_noise = th.randn(3, *shape, dtype=th.float64, generator=generator)
    state, force = th.randn(2, *shape[1:], dtype=th.float64, generator=generator)
    force = FORCE_STD * force
    from_state, from_obs, gain = (p.T for p in setting.parameters)
    environment = setting.environment.T
    states, internal_states, means, next_states, actions = th.empty(5, *shape, dtype=th.float64)
    internal_state = th.zeros(shape[1:], dtype=th.float64)
    for t in range(setting.horizon):
        states[t], internal_states[t] = state, internal_state
        means[t] = internal_state @ from_state + state @ from_obs
        actions[t] = means[t] @ gain + ACTION_STD * action_noise[t]
        next_states[t] = internal_state = means[t] + setting.state_std * state_noise[t]
        state = state @ environment + INPUT_GAIN * actions[t] + force + ENV_STD * env_noise[t]
    state_scale, action_scale = setting.reward_scales
    rewards = th.exp(-0.5 * ((state_scale * states).square() + (action_scale * actions).square()).sum(-1))
    forces = force.expand(shape)
    return Episodes(states, forces, internal_states, means, next_states, actions, action_noise, state_noise, rewards)


def exact_values(setting: Setting, episodes: Episodes) -> tuple[th.Tensor, th.Tensor]:
    """
    :param setting: The problem
    :param episodes: Episodes
    :return: gamma^t Q(s, c, a, z') and gamma^t V(s, c, z) at each step, (T, n)
    """
    loop = closed_loop(setting, setting.parameters)
    zero = th.zeros_like(setting.environment)
    from_here = expected_rewards(setting, loop, th.block_diag(zero, zero, zero))
    from_next = expected_rewards(setting, loop, th.block_diag(ENV_STD**2 * th.eye(len(zero), dtype=th.float64), zero, zero))
    q_values, values = th.empty(2, *episodes.rewards.shape, dtype=th.float64)
    for t in range(setting.horizon):
        state, force, left = episodes.states[t], episodes.forces[t], setting.horizon - t
        next_mean = state @ setting.environment.T + INPUT_GAIN * episodes.actions[t] + force
        after = from_next(th.cat([next_mean, force, episodes.next_internal_states[t]], dim=1), left - 1)
        q_values[t] = GAMMA**t * (episodes.rewards[t] + GAMMA * after)
        values[t] = GAMMA**t * from_here(th.cat([state, force, episodes.internal_states[t]], dim=1), left)
    return q_values, values
