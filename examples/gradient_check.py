"""
Is the gradient right? The actor loss of S2PGSAC against the exact gradient on a linear-Gaussian problem.

The environment is linear with a quadratic cost and shows only a part of its state. Actions and internal states are
squashed by the policy, so the environment (and the state kernel) look at them through atanh: what is squashed and
unsquashed again is linear and Gaussian. Then J, Q and the distribution of (s, z) at every step are known in closed
form, and so is the gradient of J. S2PGSAC's own loss is fed with Q, temperatures of zero, and (s, z) drawn from the
discounted on-policy distribution. As a control, the same with z' detached: the memory's gradient goes missing.

    python examples/gradient_check.py [--out results/gradient_check]
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from common import save_figure, save_json
from gymnasium import spaces
from linear_gaussian import covariances
from torch import nn

from sb3_s2pg import S2PGSAC, StateKernel
from sb3_s2pg.common.buffers import StatefulReplayBufferSamples

GAMMA = 0.9
STATE_DIM = 2  # size of z
A = th.tensor([[0.9, 0.3], [-0.2, 0.8]], dtype=th.float64)
B = th.tensor([[0.0], [0.4]], dtype=th.float64)
ENV_NOISE = 0.1  # std of the environment's own noise
STATE_COST = th.tensor([[1.0, 0.0], [0.0, 0.3]], dtype=th.float64)
ACTION_COST = th.tensor([[0.1]], dtype=th.float64)
START_COVARIANCE = th.diag(th.tensor([0.2, 0.2, 0.0, 0.0], dtype=th.float64))  # of (s, unsquashed z): z_0 = 0


class Spaces(gym.Env):
    """Carries the spaces; the problem itself is solved in closed form, so no step is ever taken."""

    observation_space = spaces.Box(-10, 10, (2,))
    action_space = spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros(2, dtype=np.float32), {}


class LinearKernel(StateKernel):
    """atanh(z') = W_o o + W_z atanh(z), at zero noise."""

    def __init__(self, input_dim: int, state_dim: int):
        super().__init__(input_dim, state_dim)
        self.from_input = nn.Parameter(th.tensor([[0.5], [-0.3]]))
        self.from_state = nn.Parameter(th.tensor([[0.4, 0.2], [-0.1, 0.5]]))

    def forward(self, inputs: th.Tensor, states: th.Tensor) -> tuple[th.Tensor, th.Tensor | None]:
        return th.tanh(inputs @ self.from_input.T + th.atanh(states) @ self.from_state.T), None


class UnsquashMean(nn.Module):
    """Lets the linear action head see the kernel's mean unsquashed."""

    def forward(self, head_inputs: th.Tensor) -> th.Tensor:
        return th.cat([head_inputs[:, :1], th.atanh(head_inputs[:, 1:])], dim=1)


class ExactQ(nn.Module):
    """
    Q(s, z, a, z') = r(s, a) + gamma E[V(s', z')], with V(s, z) = -(x' P x) - c, x = (s, atanh(z)).

    :param value_matrix: P
    """

    def __init__(self, value_matrix: th.Tensor):
        super().__init__()
        self.value_matrix = value_matrix

    def forward(
        self,
        obs: th.Tensor,
        states: th.Tensor,
        actions: th.Tensor,
        next_internal_states: th.Tensor,
        history: th.Tensor | None = None,
    ) -> th.Tensor:
        obs, unsquashed = obs.double(), th.atanh(actions).double()
        cost = ((obs @ STATE_COST) * obs).sum(1) + ((unsquashed @ ACTION_COST) * unsquashed).sum(1)
        mean = th.cat([obs @ A.T + unsquashed @ B.T, th.atanh(next_internal_states).double()], dim=1)
        # The constant of V and the part of the environment's noise have no gradient
        return -(cost + GAMMA * ((mean @ self.value_matrix) * mean).sum(1)).view(1, -1, 1)


def make_model() -> S2PGSAC:
    """:return: S2PGSAC, whose policy is linear in unsquashed quantities; the actor sees s[0] only"""
    model = S2PGSAC(
        "MlpPolicy",
        Spaces(),
        ent_coef=0.0,
        state_ent_coef=0.0,
        gamma=GAMMA,
        buffer_size=1,
        seed=0,
        device="cpu",
        policy_kwargs={
            "net_arch": {"pi": [], "qf": [8]},
            "state_dim": STATE_DIM,
            "state_kernel_class": LinearKernel,
            "state_noise_kwargs": {"log_std_init": math.log(0.2)},
            "use_previous_action": False,
            "actor_observation": [0],
        },
    )
    model.actor.latent_pi = nn.Sequential(UnsquashMean())
    mean, log_std = action_layers(model)
    with th.no_grad():
        mean.weight.copy_(th.tensor([[-0.4, 0.3, 0.5]]))
        log_std.weight.zero_()
        log_std.bias.fill_(math.log(0.3))
    return model


def action_layers(model: S2PGSAC) -> tuple[nn.Linear, nn.Linear]:
    """
    :param model: The model
    :return: the layers that compute mean and log std of the action
    """
    assert isinstance(model.actor.mu, nn.Linear) and isinstance(model.actor.log_std, nn.Linear)
    return model.actor.mu, model.actor.log_std


def parameters(model: S2PGSAC) -> dict[str, th.Tensor]:
    """
    :param model: The model
    :return: The parameters that J depends on
    """
    actor = model.actor
    mean, log_std = action_layers(model)
    assert isinstance(actor.kernel, LinearKernel) and actor.state_noise is not None
    return {
        "kernel, from o": actor.kernel.from_input,
        "kernel, from z": actor.kernel.from_state,
        "head": mean.weight,
        "log std of a": log_std.bias,
        "log std of z'": actor.state_noise.log_std.bias,  # type: ignore[union-attr]
    }


def closed_loop(params: dict[str, th.Tensor]) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
    """
    x = (s, unsquashed z) follows x' = M x + noise with covariance S, at a cost of x' C x + c per step.

    :param params: Policy parameters
    :return: M, S, C and c
    """
    params = {name: parameter.double() for name, parameter in params.items()}
    see = th.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=th.float64)
    remember = th.cat([params["kernel, from o"] @ see[:, :2], params["kernel, from z"]], dim=1)  # mean of z'
    act = params["head"] @ th.cat([see, remember])  # mean of a
    action_variance = (2 * params["log std of a"]).exp()
    environment = th.cat([A, th.zeros(2, 2, dtype=th.float64)], dim=1) + B @ act
    transition = th.cat([environment, remember])
    noise = th.block_diag(
        B @ th.diag(action_variance) @ B.T + ENV_NOISE**2 * th.eye(2, dtype=th.float64),
        th.diag((2 * params["log std of z'"]).exp()),
    )
    cost = act.T @ ACTION_COST @ act + th.block_diag(STATE_COST, th.zeros(2, 2, dtype=th.float64))
    return transition, noise, cost, (th.diag(ACTION_COST) * action_variance).sum()


def exact(params: dict[str, th.Tensor]) -> tuple[th.Tensor, th.Tensor, list[th.Tensor]]:
    """
    :param params: Policy parameters
    :return: J, the matrix P of the value function, and the covariance of x at every step
    """
    transition, noise, cost, constant = closed_loop(params)
    steps = covariances(transition, noise, START_COVARIANCE, 300)  # 0.9^300 < 1e-13
    value_matrix = th.zeros(4, 4, dtype=th.float64)
    objective = th.zeros((), dtype=th.float64)
    for t, covariance in enumerate(steps):
        objective = objective - GAMMA**t * ((cost * covariance).sum() + constant)
        value_matrix = cost + GAMMA * transition.T @ value_matrix @ transition
    return objective, value_matrix.detach(), steps


def sampled_gradients(
    model: S2PGSAC, step_covariances: list[th.Tensor], n_batches: int, batch_size: int, detach_state: bool
) -> th.Tensor:
    """
    :param model: The model, its critic being the exact Q
    :param step_covariances: Covariance of x at every step
    :param n_batches: Number of batches
    :param batch_size: Transitions per batch
    :param detach_state: Whether to cut the gradient through z'
    :return: Estimates of the gradient of J, one per batch, shape (n_batches, number of parameters)
    """
    roots = []
    for covariance in step_covariances:
        values, vectors = th.linalg.eigh(covariance.detach())
        roots.append(vectors @ th.diag(values.clamp(min=0).sqrt()))
    all_roots = th.stack(roots)
    zero = th.zeros(())
    gradients = []
    for _ in range(n_batches):
        # A step t occurs with probability (1 - gamma) gamma^t: that is the weight by the discount
        steps = np.minimum(np.random.geometric(1 - GAMMA, size=batch_size) - 1, len(roots) - 1)
        x = (all_roots[steps] @ th.randn(batch_size, 4, 1, dtype=th.float64)).squeeze(-1).float()
        unused = th.zeros(batch_size, 1)
        obs, states = x[:, :2], th.cat([th.tanh(x[:, 2:]), unused], dim=1)
        indices = (np.zeros(0, dtype=int), np.zeros(0, dtype=int))
        batch = StatefulReplayBufferSamples(obs, unused, obs, unused, unused, states, states, indices)
        sample = model.actor.action_log_prob(model.policy.actor_subset(obs), states)
        if detach_state:
            sample = sample._replace(internal_states=sample.internal_states.detach())
        loss = model._actor_loss(batch, sample, zero, zero)
        gradient = th.autograd.grad(-loss / (1 - GAMMA), list(parameters(model).values()), allow_unused=True)
        # Where nothing is left of the graph the gradient is zero
        pairs = zip(gradient, parameters(model).values(), strict=True)
        gradients.append(th.cat([(th.zeros_like(p) if g is None else g).flatten() for g, p in pairs]))
    return th.stack(gradients)


def main() -> int:
    """:return: Exit code, 0 if the gradient is right"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/gradient_check"), help="where to write JSON and picture")
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=5000)
    args = parser.parse_args()

    th.manual_seed(0)
    np.random.seed(0)
    model = make_model()
    params = parameters(model)
    objective, value_matrix, steps = exact(params)
    exact_gradient = th.cat([g.flatten() for g in th.autograd.grad(objective, list(params.values()))])
    model.critic = ExactQ(value_matrix)  # type: ignore[assignment]

    names = [f"{name} [{i}]" for name, p in params.items() for i in range(p.numel())]
    result: dict[str, Any] = {"J": objective.item(), "parameters": names, "exact": exact_gradient.tolist()}
    standard_error = th.zeros(())
    for key, detach in (("s2pg", False), ("z' detached", True)):
        estimates = sampled_gradients(model, steps, args.batches, args.batch_size, detach)
        mean = estimates.mean(0)
        if not detach:
            standard_error = estimates.std(0) / math.sqrt(args.batches)
        result[key] = {
            "estimate": mean.tolist(),
            # The control is measured with the same yardstick: cutting the gradient through z' takes away its noise, too
            "largest_deviation_in_standard_errors": ((mean - exact_gradient).abs() / standard_error).max().item(),
            "relative_error": ((mean - exact_gradient).norm() / exact_gradient.norm()).item(),
        }
    result["standard_error"] = standard_error.tolist()
    result["largest_standard_error_relative_to_norm"] = (standard_error.max() / exact_gradient.norm()).item()
    s2pg, detached = result["s2pg"], result["z' detached"]
    print(f"{'parameter':20s} {'exact':>9s} {'S2PGSAC':>9s} {'std. err.':>9s} {'detached':>9s}")
    for i, name in enumerate(names):
        row = (exact_gradient[i], s2pg["estimate"][i], standard_error[i], detached["estimate"][i])
        print(f"{name:20s} " + " ".join(f"{float(number):9.4f}" for number in row))
    passed = s2pg["largest_deviation_in_standard_errors"] <= 4 and result["largest_standard_error_relative_to_norm"] <= 0.03
    control_fails = detached["largest_deviation_in_standard_errors"] > 4
    result["passed"] = bool(passed and control_fails)
    print(
        f"largest deviation {s2pg['largest_deviation_in_standard_errors']:.2f} standard errors (bar: 4), "
        f"largest standard error {100 * result['largest_standard_error_relative_to_norm']:.2f} % of the norm (bar: 3 %)\n"
        f"z' detached: {detached['largest_deviation_in_standard_errors']:.0f} standard errors off, "
        f"{100 * detached['relative_error']:.0f} % of the norm"
    )
    save_json(args.out, result)

    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots()
    positions = np.arange(len(names))
    axes.bar(positions, exact_gradient.numpy(), color="lightgray", label="exact gradient of J")
    axes.errorbar(positions - 0.1, s2pg["estimate"], 4 * standard_error.numpy(), fmt="o", label="S2PGSAC, 4 s.e.")
    axes.plot(positions + 0.1, detached["estimate"], "x", label="z' detached")
    axes.set_xticks(positions, names, rotation=45, ha="right", fontsize=8)
    axes.legend()
    save_figure(args.out, figure)
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
