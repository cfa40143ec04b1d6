"""State kernels and their noise."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch as th

from sb3_s2pg import S2PGPPO, S2PGSAC, S2PGTD3, GRUKernel, LinearKernel, StateKernel
from sb3_s2pg.common.noise import GaussianStateNoise
from sb3_s2pg.sac.policies import squash


class KeepEverything(StateKernel):
    def __init__(self, input_dim, state_dim):
        super().__init__(input_dim, state_dim)
        self.register_buffer("start", th.linspace(-0.9, 0.9, state_dim))

    def forward(self, inputs, states):
        return states, None

    def initial_state(self, n):
        return self.start.expand(n, self.state_dim)


class OnlyForward(StateKernel):
    def forward(self, inputs, states):
        return states, None


def make_model(**policy_kwargs):
    return S2PGSAC("MlpPolicy", "PendulumNoVel-v1", buffer_size=100, seed=0, device="cpu", policy_kwargs=policy_kwargs)


def test_what_is_kept_does_not_fade():
    model = make_model(state_kernel_class=KeepEverything, state_dim=5)
    obs = np.array([1, 0, 0], dtype=np.float32)
    kept = np.linspace(-0.9, 0.9, 5, dtype=np.float32)
    state = None
    for _ in range(1000):
        _, state = model.predict(obs, state=state, deterministic=True)
    np.testing.assert_array_equal(state[0, :5], kept)


@pytest.mark.parametrize("gated_noise", [False, True])
def test_gru_that_keeps_everything(gated_noise):
    kernel = GRUKernel(3, 4, gated_noise=gated_noise)
    with th.no_grad():
        kernel.cell.bias_ih[4:8] = 100.0
    start = th.empty(2, 4).uniform_(-1, 1)
    state = start
    for _ in range(1000):
        state, _ = kernel(th.randn(2, 3), state)
    # Exact, but for the rounding of (z - candidate) + candidate in torch's own cell
    th.testing.assert_close(state, start, atol=0 if gated_noise else 1e-5, rtol=0)


def test_z_at_zero_noise_is_the_mean_of_the_kernel():
    model = make_model(state_dim=6, state_noise_kwargs={"log_std_init": -20, "log_std_min": -20})
    obs, states = th.randn(32, 3), th.empty(32, 7).uniform_(-0.99, 0.99)
    with th.no_grad():
        mean, _ = model.actor.kernel(th.cat([obs, states[:, 6:]], dim=1), states[:, :6])
        sample = model.actor.action_log_prob(obs, states)
        _, deterministic = model.actor(obs, states, deterministic=True)
    th.testing.assert_close(sample.internal_states, mean, atol=1e-5, rtol=0)
    th.testing.assert_close(deterministic, mean, atol=0, rtol=0)


def test_log_probabilities_by_another_route():
    model = make_model(state_dim=6)
    obs, states = th.randn(32, 3), th.empty(32, 7).uniform_(-0.9, 0.9)
    mean, log_std, _, state_mean, state_std = model.actor.get_action_dist_params(obs, states)
    sample = model.actor.action_log_prob(obs, states)

    def log_prob(base_mean, std, value):
        transform = th.distributions.transforms.TanhTransform()
        distribution = th.distributions.TransformedDistribution(th.distributions.Normal(base_mean, std), [transform])
        return distribution.log_prob(value).sum(dim=1, keepdim=True)

    th.testing.assert_close(sample.log_prob, log_prob(mean, log_std.exp(), sample.actions), atol=1e-3, rtol=1e-4)
    th.testing.assert_close(
        sample.state_log_prob, log_prob(th.atanh(state_mean), state_std, sample.internal_states), atol=1e-3, rtol=1e-4
    )


def test_squashing_far_out_stays_finite():
    unsquashed = th.tensor([[-50.0, 30.0]], requires_grad=True)
    squashed, log_prob = squash(unsquashed, th.zeros(1, 2))
    log_prob.sum().backward()
    assert th.equal(squashed, th.tensor([[-1.0, 1.0]]))
    # log(1 - tanh(u)^2) = log 4 - 2 |u| far out
    assert log_prob.item() == pytest.approx(-2 * math.log(4) + 160, rel=1e-6)
    th.testing.assert_close(unsquashed.grad, th.tensor([[-2.0, 2.0]]))


@pytest.mark.parametrize("gated_noise", [False, True])
def test_unroll_is_a_loop(gated_noise):
    kernel = GRUKernel(3, 5, gated_noise=gated_noise)
    inputs, start = th.randn(20, 4, 3), th.empty(4, 5).uniform_(-1, 1)
    th.testing.assert_close(kernel.unroll(inputs, start), StateKernel.unroll(kernel, inputs, start))


def test_gated_noise_is_scaled_by_what_is_written():
    plain, gated = GRUKernel(3, 5, gated_noise=False), GRUKernel(3, 5)
    gated.load_state_dict(plain.state_dict())
    inputs, states = th.randn(8, 3), th.empty(8, 5).uniform_(-1, 1)
    mean, scale = gated(inputs, states)
    plain_mean, no_scale = plain(inputs, states)
    th.testing.assert_close(mean, plain_mean)
    assert no_scale is None and ((scale > 0) & (scale < 1)).all()
    # z' = z + written * (candidate - z): where nothing is written the mean is z
    with th.no_grad():
        gated.cell.bias_ih[5:10] = 100.0
    mean, scale = gated(inputs, states)
    assert th.equal(mean, states) and th.equal(scale, th.zeros(8, 5))
    noise = GaussianStateNoise(3, 5)
    assert noise(inputs, states, scale).detach().numpy() == pytest.approx(math.exp(-5))


def test_a_kernel_starts_where_it_says_in_training_too():
    model = make_model(state_kernel_class=KeepEverything, state_dim=3, net_arch=[8])
    model.learn(90)
    batch = model.replay_buffer.sample(500)
    starts = model.replay_buffer.episode_starts[batch.indices]
    assert 0 < starts.sum() < len(starts)
    np.testing.assert_allclose(batch.states[starts].numpy(), np.tile([-0.9, 0.0, 0.9, 0.0], (starts.sum(), 1)), atol=1e-6)


def test_a_kernel_without_parameters():
    model = make_model(state_kernel_class=OnlyForward, state_dim=3, net_arch=[8])
    model.learn(110)
    assert (model.predict(np.zeros(3), deterministic=True)[1][:, :3] == 0).all()


def test_the_kernel_of_the_readme():
    text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    (snippet,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class LeakyKernel" in block]
    namespace: dict = {}
    exec(snippet, namespace)
    namespace["model"].learn(120)
    assert namespace["model"].policy.state_dim == 16


def test_where_a_kernel_starts_is_loaded(tmp_path):
    model = make_model(state_kernel_class=KeepEverything, state_dim=3)
    model.actor.kernel.start.fill_(0.25)
    model.save(tmp_path / "model")
    loaded = S2PGSAC.load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(loaded.predict(np.zeros(3), deterministic=True)[1][0, :3], 0.25)
    np.testing.assert_array_equal(loaded.replay_buffer.initial_state[:3], 0.25)


def test_kernel_learning_rate_follows_the_schedule():
    model = S2PGSAC(
        "MlpPolicy",
        "PendulumNoVel-v1",
        learning_rate=lambda progress: 1e-3 * progress,
        buffer_size=200,
        policy_kwargs={"kernel_lr_ratio": 0.1, "net_arch": [8], "state_dim": 4},
        ent_coef_learning_rate=1e-5,
        state_ent_coef_learning_rate=lambda progress: 2e-5 * progress,
        device="cpu",
    )

    def rates():
        return [group["lr"] for group in model.actor.optimizer.param_groups]

    assert rates() == pytest.approx([1e-3, 1e-4])
    model.learn(200)
    progress = 1 - 199 / 200  # SB3 updates the progress after storing, the last update sees the step before
    assert rates() == pytest.approx([1e-3 * model._current_progress_remaining, 1e-4 * model._current_progress_remaining])
    assert model._current_progress_remaining < progress + 0.01
    kernel_parameters = {id(parameter) for parameter in model.actor.kernel.parameters()}
    assert {id(parameter) for parameter in model.actor.optimizer.param_groups[1]["params"]} == kernel_parameters
    assert model.ent_coef_optimizer.param_groups[0]["lr"] == 1e-5
    assert model.state_ent_coef_optimizer.param_groups[0]["lr"] == pytest.approx(2e-5 * model._current_progress_remaining)


def test_a_frozen_kernel_does_not_move():
    model = make_model(kernel_lr_ratio=0.0, net_arch=[8], state_dim=4)
    before = [parameter.detach().clone() for parameter in model.actor.kernel.parameters()]
    head = model.actor.mu.weight.detach().clone()
    model.learn(130)
    assert all(th.equal(a, b) for a, b in zip(before, model.actor.kernel.parameters(), strict=True))
    assert not th.equal(head, model.actor.mu.weight)


def test_linear_kernel_by_hand():
    kernel = LinearKernel(3, 5, max_time_constant=50.0)
    x, z = th.randn(4, 3), th.randn(4, 5)
    kernel.requires_grad_(False)
    mean, scale = kernel(x, z)
    for row in range(4):
        for entry in range(5):
            written, gate = (
                sum(kernel.linear.weight[unit, i] * x[row, i] for i in range(3)) + kernel.linear.bias[unit]
                for unit in (entry, 5 + entry)
            )
            keep = 1 - 1 / (1 + math.exp(-gate))
            share = math.sqrt(1 - keep**2)
            assert mean[row, entry].item() == pytest.approx((keep * z[row, entry] + share * written).item(), abs=1e-5)
            assert scale[row, entry].item() == pytest.approx(share, abs=1e-5)


def test_linear_kernel_has_the_time_constants_that_it_promises():
    kernel = LinearKernel(3, 40, max_time_constant=200.0)
    state = th.ones(1, 40)
    with th.no_grad():
        kernel.linear.weight[40:].zero_()  # the gates' rows
        for _ in range(200):
            state, _ = kernel(th.zeros(1, 3), state)
    # (1 - 1/T)^200 for T from 200 to 1.5
    assert state[0, 0].item() == pytest.approx((1 - 1 / 200) ** 200, rel=1e-3)
    assert state[0, -1].item() == pytest.approx(0, abs=1e-6)


def test_gru_has_the_time_constants_that_it_is_asked_for():
    kernel = GRUKernel(3, 40, max_time_constant=200.0)
    state = th.ones(1, 40)
    with th.no_grad():
        kernel.cell.weight_ih.zero_()
        kernel.cell.weight_hh.zero_()
        kernel.cell.bias_ih[80:].zero_()  # nothing is written
        kernel.cell.bias_hh[80:].zero_()
        for _ in range(200):
            state, scale = kernel(th.zeros(1, 3), state)
    assert state[0, 0].item() == pytest.approx((1 - 1 / 200) ** 200, rel=1e-3)
    assert state[0, -1].item() == pytest.approx(0, abs=1e-6)
    assert scale[0, [0, -1]].tolist() == pytest.approx([1 / 200, 1 / 1.5], rel=1e-4)


@pytest.mark.parametrize("size", [1.0, 100.0, 1e4])
def test_linear_kernel_is_finite_for_large_inputs(size):
    kernel = LinearKernel(3, 8, max_time_constant=1000.0)
    mean, scale = kernel(size * th.randn(64, 3), th.randn(64, 8))
    (mean.square().mean() + scale.square().mean()).backward()
    assert th.isfinite(mean).all() and th.isfinite(scale).all()
    assert all(th.isfinite(parameter.grad).all() for parameter in kernel.parameters())


def test_linear_kernel_stays_bounded_and_equally_large():
    th.manual_seed(0)
    kernel = LinearKernel(4, 64, max_time_constant=100.0)
    state, squares = th.zeros(16, 64), th.zeros(64)
    with th.no_grad():
        for step in range(3000):
            mean, scale = kernel(th.randn(16, 4), state)
            state = mean + 0.05 * scale * th.randn_like(mean)
            squares += state.square().mean(dim=0) * (step >= 1000)
    size = (squares / 2000).sqrt()
    # Inputs of size 1 in four entries: the size of an entry is that of what is written, whatever its time constant is
    written = kernel.linear.weight[:64].norm(dim=1)
    assert size.max() < 6
    for part in (slice(0, 20), slice(22, 42), slice(44, 64)):
        # (a weighted average of what was written would be smaller by sqrt(2 T), here up to 14 times)
        assert 0.6 < (size[part] / written[part]).mean() < 1.8


def test_linear_kernel_keeps_a_cue_that_noise_does_not_bury():
    """From z 50 steps later, a linear layer still reads the sign of the first input, among distraction at every step."""
    th.manual_seed(0)
    kernel, n = LinearKernel(2, 64, max_time_constant=300.0), 2000
    cue = th.randint(2, (n,)) * 2.0 - 1
    state = kernel.initial_state(n)
    with th.no_grad():
        for step in range(51):
            x = th.stack([cue * (step == 0), th.rand(n) * 2 - 1], dim=1)
            mean, scale = kernel(x, state)
            state = mean + 0.02 * scale * th.randn_like(mean)
        half = n // 2
        weights = th.linalg.lstsq(state[:half].double(), cue[:half, None].double()).solution
        right = ((state[half:].double() @ weights).flatten().sign() == cue[half:]).double().mean()
    assert right > 0.97


@pytest.mark.parametrize("algorithm", [S2PGSAC, S2PGTD3])
def test_where_z_is_bounded_an_unbounded_kernel_is_refused(algorithm):
    unbounded = {"state_kernel_class": "linear", "state_kernel_kwargs": {"bounded": False}}
    with pytest.raises(ValueError, match=r"state_kernel_class=LinearKernel.*leaves \(-1, 1\).*gru.*S2PGPPO"):
        algorithm("MlpPolicy", "PendulumNoVel-v1", buffer_size=10, policy_kwargs=unbounded)
    model = algorithm("MlpPolicy", "PendulumNoVel-v1", buffer_size=10, policy_kwargs={"state_kernel_class": "linear"})
    assert model.actor.kernel.bounded


@pytest.mark.parametrize("kernel", ["gru", "lstm", "linear"])
def test_a_kernel_that_forgets_at_once_is_refused(kernel):
    with pytest.raises(ValueError, match=r"max_time_constant=1\.0"):
        kwargs = {"state_kernel_class": kernel, "state_kernel_kwargs": {"max_time_constant": 1.0}}
        S2PGPPO("MlpPolicy", "PendulumNoVel-v1", policy_kwargs=kwargs)


@pytest.mark.parametrize("std_type, n_learned", [("state_dependent", 2), ("constant", 1), ("fixed", 0)])
def test_types_of_std(std_type, n_learned):
    noise = GaussianStateNoise(3, 4, log_std_init=-1.5, std_type=std_type)
    assert sum(parameter.requires_grad for parameter in noise.parameters()) == n_learned
    x, z, scale = th.randn(6, 3), th.randn(6, 4), th.rand(6, 4)
    th.testing.assert_close(noise(x, z), th.full((6, 4), math.exp(-1.5)))
    std = noise(x, z, scale)
    th.testing.assert_close(std, (scale * math.exp(-1.5)).clamp(min=math.exp(-5.0)))
    log_density, entropy = noise.evaluate(z, std)
    by_torch = th.distributions.Normal(th.zeros(6, 4), std)
    th.testing.assert_close(log_density, by_torch.log_prob(z).sum(dim=1))
    th.testing.assert_close(entropy, by_torch.entropy().sum(dim=1))


def test_type_of_std_that_does_not_exist():
    with pytest.raises(ValueError, match=r"std_type='learned'.*state_dependent"):
        GaussianStateNoise(3, 4, std_type="learned")
