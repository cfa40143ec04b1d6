"""The numbers of S2PGPPO: against formulas written out by hand, and against SB3's PPO where there is no memory."""

import numpy as np
import pytest
import torch as th
from envs import AnyAction
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_s2pg import S2PGPPO

BOX = spaces.Box(np.array([-2.0, 0.0], dtype=np.float32), np.array([2.0, 1.0], dtype=np.float32))
MULTI_DISCRETE = spaces.MultiDiscrete([2, 4])
ACTION_SPACES = [BOX, spaces.Discrete(3), MULTI_DISCRETE, spaces.MultiBinary(3)]


def envs(space, n_envs=2):
    return DummyVecEnv([lambda i=i: AnyAction(space, 5 + i, truncate=bool(i % 2)) for i in range(n_envs)])


MEMORY = ("kernel.", "state_noise.")


def make(space, policy_kwargs=None, **kwargs):
    kwargs = {"n_steps": 16, "batch_size": 32, "n_epochs": 1, "seed": 0, "device": "cpu", **kwargs}
    return S2PGPPO(
        "MlpPolicy",
        envs(space),
        policy_kwargs={
            "net_arch": [4],
            "state_dim": 2,
            "state_kernel_class": "gru",
            "state_noise_kwargs": {"log_std_init": -3.0},
            **(policy_kwargs or {}),
        },
        **kwargs,
    )


def collect(model):
    """One rollout, no gradient step."""
    _, callback = model._setup_learn(10_000)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    model.set_logger(configure(None, []))
    return model.rollout_buffer


def shake(model, size, seed=0):
    """Weights that are all different from zero and from what a rollout was collected with."""
    generator = th.Generator().manual_seed(seed)
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(size * th.randn(parameter.shape, generator=generator))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gaussian_log_density(x, mean, std):
    return -0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)


def log_softmax(x):
    return x - np.log(np.exp(x).sum())


def gru_by_hand(w, x, z):
    """Mean of z' and the share that is written, of one transition."""
    inputs = (w["kernel.cell.weight_ih"] @ x + w["kernel.cell.bias_ih"]).reshape(3, -1)
    states = (w["kernel.cell.weight_hh"] @ z + w["kernel.cell.bias_hh"]).reshape(3, -1)
    reset, keep = sigmoid(inputs[0] + states[0]), sigmoid(inputs[1] + states[1])
    candidate = np.tanh(inputs[2] + reset * states[2])
    return keep * z + (1 - keep) * candidate, 1 - keep


def action_by_hand(space, output, log_std, action):
    """Log-probability and entropy of the action distribution."""
    if isinstance(space, spaces.Box):
        std = np.exp(log_std)
        return gaussian_log_density(action, output, std).sum(), np.sum(np.log(std) + 0.5 * np.log(2 * np.pi * np.e))
    if isinstance(space, spaces.MultiBinary):
        ones = sigmoid(output)
        return np.log(np.where(action == 1, ones, 1 - ones)).sum(), -(
            ones * np.log(ones) + (1 - ones) * np.log(1 - ones)
        ).sum()
    parts = np.split(output, [2]) if space == MULTI_DISCRETE else [output]
    log_prob = sum(log_softmax(part)[int(a)] for part, a in zip(parts, np.atleast_1d(action), strict=True))
    return log_prob, -sum((np.exp(log_softmax(part)) * log_softmax(part)).sum() for part in parts)


def evaluate_by_hand(model, obs, action, state, next_z):
    """One transition, in double precision: V(s, z), log pi_a, entropy, log kappa, entropy."""
    w = {name: value.double().numpy() for name, value in model.policy.state_dict().items()}
    z, previous = state[:2], state[2:]
    x = np.concatenate([obs, previous])
    mean, written = gru_by_hand(w, x, z)
    std = np.maximum(np.exp(w["state_noise.log_std"]) * written, np.exp(-10.0))

    def hidden(name, inputs):
        return np.tanh(w[f"mlp_extractor.{name}.0.weight"] @ inputs + w[f"mlp_extractor.{name}.0.bias"])

    # The action head reads the kernel's input and its mean; the value function the state that is stored
    output = w["action_net.weight"] @ hidden("policy_net", np.concatenate([x, mean])) + w["action_net.bias"]
    value = w["value_net.weight"] @ hidden("value_net", np.concatenate([obs, z, previous])) + w["value_net.bias"]
    log_prob, entropy = action_by_hand(model.action_space, output, w.get("log_std"), action)
    state_log_prob = gaussian_log_density(next_z, mean, std).sum()
    return value.item(), log_prob, entropy, state_log_prob, (np.log(std) + 0.5 * np.log(2 * np.pi * np.e)).sum(), std


@pytest.mark.parametrize("space", ACTION_SPACES, ids=str)
def test_a_transition_by_hand(space):
    model = make(space)
    shake(model, 0.5)
    with th.no_grad():
        model.policy.state_noise.log_std.copy_(th.tensor([-1.0, 0.3]))
    generator = np.random.default_rng(0)
    space.seed(0)
    n, n_features = 6, spaces.flatdim(space)
    obs = generator.uniform(-1, 1, (n, 3)).astype(np.float32)
    states = generator.uniform(-1, 1, (n, 2 + n_features)).astype(np.float32)
    next_z = generator.uniform(-1, 1, (n, 2)).astype(np.float32)
    actions = np.array([space.sample() for _ in range(n)]).reshape(n, -1)
    batch = [th.as_tensor(array) for array in (obs, actions, states, next_z)]
    with th.no_grad():
        together = model.policy.evaluate_actions(*batch)
        alone = model.policy.evaluate_actions(*(tensor[:1] for tensor in batch))
    for i in range(n):
        action = actions[i, 0] if isinstance(space, spaces.Discrete) else actions[i]
        by_hand = evaluate_by_hand(model, obs[i], action, states[i], next_z[i])
        for name, ours, number in zip(together._fields, together, by_hand, strict=True):
            np.testing.assert_allclose(ours[i].numpy(), number, rtol=2e-5, atol=1e-5, err_msg=name)
    for one, all_of_them in zip(alone, together, strict=True):
        th.testing.assert_close(one, all_of_them[:1])


def test_the_floor_of_the_noise():
    """A kernel that keeps nearly everything scales the noise down, but not below exp(log_std_min)."""
    model = make(BOX)
    with th.no_grad():
        model.policy.kernel.cell.bias_ih[2:4] = 30.0  # keep = 1
        z = th.tensor([[0.3, -0.4, 0.0, 0.0]])
        evaluation = model.policy.evaluate_actions(th.zeros(1, 3), th.zeros(1, 2), z, z[:, :2])
    np.testing.assert_allclose(evaluation.state_std, np.exp(-10), rtol=1e-5)
    assert evaluation.state_log_prob.item() == pytest.approx(2 * (10 - 0.5 * np.log(2 * np.pi)), abs=1e-2)


def test_samples_have_the_distribution_that_is_evaluated():
    model = make(BOX)
    shake(model, 0.3)
    n = 20_000
    obs, states = th.full((n, 3), 0.5), th.tensor([[0.2, -0.6, 0.1, 0.9]]).expand(n, 4)
    th.manual_seed(0)
    with th.no_grad():
        actions, next_z = model.policy.sample(obs, states)
        evaluation = model.policy.evaluate_actions(obs, actions, states, next_z)
        mode, mean = model.policy.sample(obs[:1], states[:1], deterministic=True)
    # -E[log p] is the entropy, of both
    for log_prob, entropy in (
        (evaluation.log_prob, evaluation.entropy),
        (evaluation.state_log_prob, evaluation.state_entropy),
    ):
        assert -log_prob.mean().item() == pytest.approx(entropy[0].item(), abs=5 * log_prob.std().item() / np.sqrt(n))
    std = evaluation.state_std[0]
    np.testing.assert_allclose(next_z.mean(dim=0), mean[0], atol=5 * std.max().item() / np.sqrt(n))
    np.testing.assert_allclose(next_z.std(dim=0), std, rtol=0.03)
    # a and z' are independent given (o, z)
    centred = th.cat([actions - mode, next_z - mean], dim=1).numpy()
    assert np.abs(np.corrcoef(centred.T)[:2, 2:]).max() < 5 / np.sqrt(n)


def parameters_after_training(space, ppo_kwargs):
    """The parameters of SB3's PPO and of ours after one train() from equal weights and data, and what both log."""
    kwargs = {"n_steps": 25, "n_epochs": 4, "learning_rate": 1e-3, "seed": 0, "device": "cpu", **ppo_kwargs}
    ppo = PPO("MlpPolicy", envs(space), policy_kwargs={"net_arch": [16, 16]}, **kwargs)
    ours = S2PGPPO(
        "MlpPolicy",
        envs(space),
        policy_kwargs={"net_arch": [16, 16], "state_dim": 0, "use_previous_action": False},
        **kwargs,
    )
    for mine, theirs in zip(ours.policy.state_dict().items(), ppo.policy.state_dict().items(), strict=True):
        assert mine[0] == theirs[0] and th.equal(mine[1], theirs[1])  # the same seed gives the same weights
    rollout = collect(ours)
    collect(ppo)
    for name in ("observations", "actions", "values", "log_probs", "advantages", "returns"):
        mine, theirs = getattr(rollout, name), getattr(ppo.rollout_buffer, name)
        assert mine.shape == theirs.shape
        theirs[:] = mine
    # Another policy than the one that collected the data: some ratios are to be clipped from the start
    shake(ours, 0.0 if "target_kl" in ppo_kwargs else 0.2)
    ppo.policy.load_state_dict(ours.policy.state_dict())
    logs = []
    for model in (ppo, ours):
        np.random.seed(3)
        model.train()
        logs.append(dict(model.logger.name_to_value))
    return ppo, ours, logs


@pytest.mark.parametrize("space", [BOX, spaces.Discrete(3)], ids=str)
@pytest.mark.parametrize(
    "kwargs",
    [
        {"batch_size": 50},
        {"batch_size": 16, "ent_coef": 0.1},
        {"batch_size": 16, "clip_range_vf": 0.1, "clip_range": 0.05, "vf_coef": 0.7},
        {"batch_size": 10, "target_kl": 2e-3, "n_epochs": 20},
        {"batch_size": 10, "normalize_advantage": False, "max_grad_norm": 0.1},
        {"batch_size": 49, "clip_range": lambda progress: 0.1 * progress, "learning_rate": lambda progress: 1e-3 * progress},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_without_memory_training_is_that_of_ppo(space, kwargs):
    ppo, ours, logs = parameters_after_training(space, kwargs)
    for mine, theirs in zip(ours.policy.parameters(), ppo.policy.parameters(), strict=True):
        th.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
    assert ours._n_updates == ppo._n_updates
    assert (1 < ours._n_updates < 20) if "target_kl" in kwargs else (ours._n_updates == 4)
    for name, value in logs[0].items():
        assert logs[1][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    assert logs[0]["train/clip_fraction"] > 0 or "target_kl" in kwargs
    # What concerns z' is not logged where there is none
    assert not [name for name in logs[1] if "state" in name or "kernel" in name or "action_" in name]


@pytest.mark.parametrize("space", [BOX, spaces.Discrete(3)], ids=str)
def test_without_memory_a_whole_run_is_that_of_ppo(space):
    """Collecting included: the same random numbers are drawn in the same order."""
    runs = []
    for cls, policy_kwargs in ((PPO, {}), (S2PGPPO, {"state_dim": 0, "use_previous_action": False})):
        kwargs = {"n_steps": 16, "batch_size": 8, "n_epochs": 2, "seed": 5, "device": "cpu"}
        model = cls("MlpPolicy", envs(space), policy_kwargs={"net_arch": [8], **policy_kwargs}, **kwargs)
        model.learn(96)
        runs.append([parameter.detach() for parameter in model.policy.parameters()])
    for mine, theirs in zip(*runs, strict=True):
        th.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "space, clip_range_vf, max_grad_norm",
    [(BOX, None, 0.01), (BOX, 0.05, 100.0), (spaces.Discrete(3), None, 100.0), (MULTI_DISCRETE, 0.05, 0.01)],
    ids=str,
)
def test_loss_and_step_by_hand(space, clip_range_vf, max_grad_norm):
    """The loss of the joint policy written out, and one step of plain gradient descent along its gradient."""
    clip, ent_coef, vf_coef, state_ent_coef, lr = 0.1, 0.03, 0.6, 0.02, 0.1
    model = make(
        space,
        {"optimizer_class": th.optim.SGD, "kernel_lr_ratio": 0.25},
        learning_rate=lr,
        clip_range=clip,
        clip_range_vf=clip_range_vf,
        ent_coef=ent_coef,
        vf_coef=vf_coef,
        state_ent_coef=state_ent_coef,
        max_grad_norm=max_grad_norm,
    )
    collect(model)
    shake(model, 0.03)
    batch = next(model.rollout_buffer.get())
    policy = model.policy

    # The network by hand
    z, previous = batch.states[:, :2], batch.states[:, 2:]
    x = th.cat([batch.observations, previous], dim=1)
    mean, written = policy.kernel(x, z)
    std = policy.state_noise.log_std.exp() * written
    kappa = th.distributions.Normal(mean, std)
    output = policy.action_net(policy.mlp_extractor.policy_net(th.cat([x, mean], dim=1)))
    values = policy.value_net(policy.mlp_extractor.value_net(th.cat([batch.observations, z, previous], dim=1))).flatten()
    if isinstance(space, spaces.Box):
        parts = [th.distributions.Independent(th.distributions.Normal(output, policy.log_std.exp()), 1)]
        actions = [batch.actions]
    else:
        logits = output.split(list(space.nvec), dim=1) if space == MULTI_DISCRETE else [output]
        parts = [th.distributions.Categorical(logits=logit) for logit in logits]
        actions = list(batch.actions.unbind(dim=1))
    log_pi = sum(part.log_prob(action) for part, action in zip(parts, actions, strict=True))
    entropy = sum(part.entropy() for part in parts)
    log_kappa = kappa.log_prob(batch.next_internal_states).sum(dim=1)

    # The loss by hand
    advantages = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
    log_ratio = (log_pi - batch.old_log_prob) + (log_kappa - batch.old_state_log_prob)
    ratio = log_ratio.exp()
    surrogates = th.stack([ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages])
    policy_loss = -surrogates.min(dim=0).values.mean()
    if clip_range_vf is not None:
        values = batch.old_values + (values - batch.old_values).clamp(-clip_range_vf, clip_range_vf)
    value_loss = (batch.returns - values).square().mean()
    state_entropy = kappa.entropy().sum(dim=1).mean()
    loss = policy_loss + vf_coef * value_loss - ent_coef * entropy.mean() - state_ent_coef * state_entropy
    parameters = dict(policy.named_parameters())
    gradients = dict(zip(parameters, th.autograd.grad(loss, list(parameters.values())), strict=True))
    # Memory and heads are clipped apart: the score of z' is of size 1 / std
    norms, factors = {}, {}
    for is_memory in (True, False):
        part = [gradient.flatten() for name, gradient in gradients.items() if name.startswith(MEMORY) == is_memory]
        norms[is_memory] = th.cat(part).norm()
        assert (norms[is_memory] > max_grad_norm) == (max_grad_norm == 0.01)
        factors[is_memory] = min(1.0, max_grad_norm / (norms[is_memory].item() + 1e-6))
    expected = {
        name: (
            parameter - lr * (0.25 if name.startswith("kernel.") else 1.0) * factors[name.startswith(MEMORY)] * gradients[name]
        )
        .detach()
        .clone()
        for name, parameter in parameters.items()
    }
    assert gradients["state_noise.log_std"].abs().min() > 0 and gradients["kernel.cell.weight_hh"].abs().max() > 0

    model.train()
    logged = {
        "loss": loss,
        "policy_gradient_loss": policy_loss,
        "value_loss": value_loss,
        "entropy_loss": -entropy.mean(),
        "state_entropy_loss": -state_entropy,
        "state_std": std.mean(),
        "grad_norm": norms[False],
        "memory_grad_norm": norms[True],
        "approx_kl": (ratio - 1 - log_ratio).mean(),
        "clip_fraction": ((ratio - 1).abs() > clip).float().mean(),
        "action_approx_kl": ((log_pi - batch.old_log_prob).exp() - 1 - (log_pi - batch.old_log_prob)).mean(),
        "state_clip_fraction": (((log_kappa - batch.old_state_log_prob).exp() - 1).abs() > clip).float().mean(),
    }
    for name, number in logged.items():
        assert model.logger.name_to_value[f"train/{name}"] == pytest.approx(number.item(), rel=1e-4, abs=1e-6), name
    assert 0 < logged["clip_fraction"] < 1
    for name, parameter in policy.named_parameters():
        th.testing.assert_close(parameter.detach(), expected[name], atol=1e-6, rtol=1e-4)


def test_early_stopping_looks_at_the_joint_policy():
    """Only the kernel learns: pi_a's part of the divergence stays small, the joint one stops the training."""
    kwargs = {"n_epochs": 20, "learning_rate": 1e-2, "batch_size": 8}
    model = make(BOX, {"kernel_lr_ratio": 1.0}, target_kl=0.05, **kwargs)
    collect(model)
    with th.no_grad():
        # The action does not depend on anything any more
        for parameter in (model.policy.action_net.weight, model.policy.action_net.bias):
            parameter.zero_().requires_grad_(False)
        model.policy.log_std.requires_grad_(False)
    model._evaluate_rollout(model.rollout_buffer)
    model.train()
    logged = model.logger.name_to_value
    assert model._n_updates < 20
    assert logged["train/action_approx_kl"] == pytest.approx(0, abs=1e-6) and logged["train/state_approx_kl"] > 0
