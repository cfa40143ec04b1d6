"""Every kernel with every noise in every algorithm, and the kernels' equations by another route."""

import math

import numpy as np
import pytest
import torch as th
from torch import nn

from sb3_s2pg import (
    S2PGPPO,
    S2PGSAC,
    S2PGTD3,
    CPGKernel,
    LinearKernel,
    LSTMKernel,
    ODEKernel,
    OUKernel,
    RNNKernel,
    StateKernel,
    UniformStateNoise,
)
from sb3_s2pg.common.kernels import KERNELS
from sb3_s2pg.common.noise import NOISES

ALGORITHMS = {"sac": S2PGSAC, "td3": S2PGTD3, "ppo": S2PGPPO}
SMALL = {
    "sac": {"buffer_size": 300, "learning_starts": 20, "batch_size": 16},
    "td3": {"buffer_size": 300, "learning_starts": 20, "batch_size": 16},
    "ppo": {"n_steps": 64, "batch_size": 32, "n_epochs": 2},
}


def make_model(algo, **policy_kwargs):
    settings = {**SMALL[algo], "policy_kwargs": {"state_dim": 8, **policy_kwargs}}
    return ALGORITHMS[algo]("MlpPolicy", "PendulumNoVel-v1", seed=0, device="cpu", **settings)


@pytest.mark.parametrize("noise", list(NOISES))
@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize("algo", list(ALGORITHMS))
def test_trains_saves_loads_and_predicts_the_same(algo, kernel, noise, tmp_path):
    if algo == "ppo" and noise == "uniform":
        with pytest.raises(ValueError, match=r"UniformStateNoise.*score is zero.*S2PGSAC"):
            make_model(algo, state_kernel_class=kernel, state_noise_class=noise)
        return
    model = make_model(algo, state_kernel_class=kernel, state_noise_class=noise)
    actor = model.policy if algo == "ppo" else model.actor
    before = [parameter.detach().clone() for parameter in actor.kernel.parameters()]
    model.learn(70)
    moved = [not th.equal(a, b) for a, b in zip(before, actor.kernel.parameters(), strict=True)]
    assert any(moved)
    model.save(tmp_path / "model")
    loaded = ALGORITHMS[algo].load(tmp_path / "model", device="cpu")
    obs, state, other = np.array([[0.3, 0.1, 0.0]], dtype=np.float32), None, None
    for _ in range(20):
        action, state = model.predict(obs, state, deterministic=True)
        same, other = loaded.predict(obs, other, deterministic=True)
        np.testing.assert_array_equal(action, same)
        np.testing.assert_array_equal(state, other)


@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize("bounded", [False, True])
def test_stays_bounded(kernel, bounded):
    """100,000 steps with noise, the inputs being large at times; what has to lie in (-1, 1) does, but for rounding."""
    th.manual_seed(0)
    kwargs = {"bounded": bounded} if KERNELS[kernel].bounded is None else {}
    cell = KERNELS[kernel](3, 8, **kwargs).requires_grad_(False)
    state, largest = cell.initial_state(20), 0.0
    for step in range(5000):
        mean, scale = cell(th.randn(20, 3) * (10.0 if step % 100 == 0 else 1.0), state)
        assert not cell.bounded or mean.abs().max() <= 1
        state = mean + 0.05 * (1.0 if scale is None else scale) * th.randn(20, 8)
        state = state.clamp(-0.9999, 0.9999) if cell.bounded else state
        largest = max(largest, state.abs().max().item())
    assert largest < (1 if cell.bounded else 100)


def test_lstm_is_torchs():
    x, z = th.randn(4, 3), th.randn(4, 10)
    for gated_noise in (False, True):
        kernel = LSTMKernel(3, 10, gated_noise=gated_noise)
        mean, scale = kernel(x, z)
        hidden, cell = kernel.cell(x, (z[:, :5].contiguous(), z[:, 5:].contiguous()))
        th.testing.assert_close(mean, th.cat([hidden, cell], dim=1))
        assert (scale is not None) == gated_noise
    write, _, _, output = (x @ kernel.cell.weight_ih.t() + kernel.cell.bias_ih).chunk(4, dim=1)
    from_hidden = (z[:, :5] @ kernel.cell.weight_hh.t() + kernel.cell.bias_hh).chunk(4, dim=1)
    th.testing.assert_close(scale, th.sigmoid(th.cat([output + from_hidden[3], write + from_hidden[0]], dim=1)))


@pytest.mark.parametrize("gated_noise", [False, True])
def test_a_bounded_lstm_holds_the_same_cell(gated_noise):
    kernel = LSTMKernel(3, 10, gated_noise=gated_noise, bounded=True)
    x, hidden, cell = th.randn(4, 3), th.rand(4, 5) * 2 - 1, th.randn(4, 5)
    mean, _ = kernel(x, th.cat([hidden, th.tanh(cell)], dim=1))
    hidden, cell = kernel.cell(x, (hidden, cell))
    th.testing.assert_close(mean, th.cat([hidden, th.tanh(cell)], dim=1), atol=1e-5, rtol=1e-4)


def test_lstm_has_the_time_constants_that_it_is_asked_for():
    kernel = LSTMKernel(3, 80, max_time_constant=200.0)
    state = th.cat([th.zeros(1, 40), th.ones(1, 40)], dim=1)
    with th.no_grad():
        kernel.cell.weight_ih.zero_()
        kernel.cell.weight_hh.zero_()
        kernel.cell.bias_ih[80:120].zero_()  # nothing is written
        kernel.cell.bias_hh[80:120].zero_()
        for _ in range(200):
            state, _ = kernel(th.zeros(1, 3), state)
    assert state[0, 40].item() == pytest.approx((1 - 1 / 200) ** 200, rel=1e-3)
    assert state[0, -1].item() == pytest.approx(0, abs=1e-6)


def test_rnn_by_hand_and_unrolled():
    kernel, xs, z = RNNKernel(3, 5), th.randn(7, 4, 3), th.rand(4, 5) * 2 - 1
    states = [z]
    for x in xs:
        mean, scale = kernel(x, states[-1])
        by_hand = th.tanh(
            x @ kernel.cell.weight_ih.t() + states[-1] @ kernel.cell.weight_hh.t() + kernel.cell.bias_ih + kernel.cell.bias_hh
        )
        th.testing.assert_close(mean, by_hand)
        assert scale is None
        states.append(mean)
    th.testing.assert_close(kernel.unroll(xs, z), th.stack(states[1:]))


def test_a_bounded_linear_kernel_by_hand():
    kernel = LinearKernel(3, 5, bounded=True)
    x, z = th.randn(4, 3), th.rand(4, 5) * 2 - 1
    mean, scale = kernel(x, z)
    write, gate = kernel.linear(x).chunk(2, dim=1)
    keep = 1 - 1 / (1 + th.exp(-gate))
    th.testing.assert_close(mean, keep * z + (1 - keep) * th.tanh(write))
    th.testing.assert_close(scale, 1 - keep)


def test_ou_process_has_the_moments_of_the_book():
    """With a constant mean it settles there, with the variance sigma^2 / (2 theta - theta^2 dt) of its discretisation."""
    theta, dt, sigma = 0.5, 0.4, 0.1
    kernel = OUKernel(2, 1, theta=theta, dt=dt).requires_grad_(False)
    kernel.mean.weight.zero_()
    kernel.mean.bias.fill_(math.atanh(0.3))
    th.manual_seed(0)
    state = th.zeros(20_000, 1)
    for step in range(60):
        mean, scale = kernel(th.zeros(20_000, 2), state)
        if step == 0:
            th.testing.assert_close(mean, th.full_like(mean, 0.3 * theta * dt))
        state = mean + sigma * scale * th.randn_like(mean)
    assert state.mean().item() == pytest.approx(0.3, abs=0.003)
    assert state.std().item() == pytest.approx(sigma / math.sqrt(2 * theta - theta**2 * dt), rel=0.02)


class Rotation(nn.Module):
    """dz/dt = omega * (z turned by 90 degrees) + x"""

    def __init__(self, input_dim, state_dim, omega=2.0):
        super().__init__()
        self.omega = nn.Parameter(th.tensor(omega))

    def forward(self, states, inputs):
        return self.omega * th.stack([-states[:, 1], states[:, 0]], dim=1) + inputs


def test_ode_is_integrated_to_fourth_order():
    start, x = th.tensor([[0.5, 0.0]], dtype=th.float64), th.zeros(1, 2, dtype=th.float64)
    exact = 0.5 * th.tensor([[math.cos(2.0), math.sin(2.0)]], dtype=th.float64)
    errors = []
    for n_substeps in (4, 8):
        kernel = ODEKernel(2, 2, function=Rotation, dt=1.0, n_substeps=n_substeps).double()
        errors.append((kernel(x, start)[0] - exact).norm().item())
    assert errors[1] < 1e-4 and 13 < errors[0] / errors[1] < 19


def test_two_kernels_do_not_share_the_users_function():
    function = Rotation(2, 2)
    first, second = (ODEKernel(2, 2, function=function) for _ in range(2))
    assert first.function.omega is not second.function.omega


def test_oscillators_alone_have_the_frequency_and_the_amplitude_that_drives_them():
    kernel = CPGKernel(1, 6, dt=0.05, max_frequency=3.0).requires_grad_(False)
    kernel.coupling.zero_()
    kernel.drive.weight.zero_()
    frequencies, amplitudes = th.tensor([0.5, 1.0, 2.0]), th.tensor([0.3, 0.6, 0.8])
    kernel.drive.bias.copy_(th.logit(th.cat([frequencies / 3.0, amplitudes / 0.9])))
    state, turned = kernel.initial_state(1), th.zeros(3)
    for step in range(1000):
        before = kernel.phases(state)[0]
        state, _ = kernel(th.zeros(1, 1), state)
        if step >= 800:  # the last 10 seconds
            turned += (kernel.phases(state)[0] - before) % (2 * math.pi)
    th.testing.assert_close(turned / (2 * math.pi * 10), frequencies, rtol=0.01, atol=0)
    th.testing.assert_close(state.view(2, 3).norm(dim=0), amplitudes, rtol=0.01, atol=0)


def test_coupled_oscillators_lock_with_the_phase_shift_that_they_are_given():
    kernel = CPGKernel(1, 4, dt=0.02).requires_grad_(False)
    kernel.drive.weight.zero_()
    kernel.drive.bias.zero_()
    shift = 1.0  # the second follows the first, one radian later
    kernel.coupling.copy_(th.tensor([[0.0, 0.0], [3.0, 0.0]]))
    kernel.phase_shift.copy_(th.tensor([[0.0, 0.0], [shift, 0.0]]))
    state = kernel.initial_state(1)
    for _ in range(1000):
        state, _ = kernel(th.zeros(1, 1), state)
    first, second = kernel.phases(state)[0]
    assert ((first - second) % (2 * math.pi)).item() == pytest.approx(shift, abs=0.02)


def test_uniform_noise():
    noise = UniformStateNoise(3, 4, log_std_init=-1.0, std_type="fixed")
    std = noise(th.zeros(50_000, 3), th.zeros(50_000, 4))
    sample, log_density = noise.sample(std)
    assert sample.std().item() == pytest.approx(math.exp(-1.0), rel=0.01)
    by_torch = th.distributions.Uniform(-math.sqrt(3) * std, math.sqrt(3) * std)
    th.testing.assert_close(log_density, by_torch.log_prob(sample))
    log_prob, entropy = noise.evaluate(sample, std)
    th.testing.assert_close(log_prob, by_torch.log_prob(sample).sum(dim=1))
    th.testing.assert_close(entropy, by_torch.entropy().sum(dim=1))
    assert noise.evaluate(10 * std[:1], std[:1])[0].item() == -math.inf


class Crooked(nn.Module):
    def forward(self, states, inputs):
        return states[:, :1]


class NotFinite(StateKernel):
    def forward(self, inputs, states):
        return states / 0.0 + 1.0, None


@pytest.mark.parametrize(
    "kernel, kwargs, state_dim, message",
    [
        ("transformer", {}, 8, r"'transformer' is not a state kernel.*'cpg', 'gru', 'linear', 'lstm', 'ode', 'ou', 'rnn'"),
        ("lstm", {}, 7, r"state_dim=7 has to be even.*use 8"),
        ("cpg", {}, 7, r"state_dim=7 has to be even.*use 8"),
        ("ou", {"theta": 3.0, "dt": 0.5}, 8, r"theta=3.0 times dt=0.5.*smaller dt"),
        ("ou", {"dt": 0.0}, 8, r"dt=0.0 must be a positive number"),
        ("ode", {"dt": -1.0}, 8, r"dt=-1.0 must be a positive number"),
        ("ode", {"n_substeps": 1.5}, 8, r"n_substeps=1.5 must be an integer"),
        ("ode", {"max_time_constant": 0.5}, 8, r"max_time_constant=0.5 must be at least 1 step"),
        ("ode", {"function": Crooked()}, 8, r"function=Crooked.*shape \(2, 1\).*\(2, 8\)"),
        ("cpg", {"dt": 0.2}, 8, r"dt=0.2 is too long.*quarter of a cycle"),
        (NotFinite, {}, 8, r"NotFinite: mean.*finite values are needed"),
    ],
)
@pytest.mark.parametrize("algo", list(ALGORITHMS))
def test_a_kernel_that_cannot_work_is_refused(algo, kernel, kwargs, state_dim, message):
    with pytest.raises(ValueError, match=message):
        make_model(algo, state_kernel_class=kernel, state_kernel_kwargs=kwargs, state_dim=state_dim)


@pytest.mark.parametrize("noise", ["laplace", nn.Linear])
def test_a_noise_that_does_not_exist_is_refused(noise):
    with pytest.raises(ValueError, match=r"not a state noise.*'gaussian', 'uniform'"):
        make_model("sac", state_noise_class=noise)
