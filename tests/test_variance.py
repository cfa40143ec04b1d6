"""Estimators of examples/variance.py against autograd, exact gradient and values against finite differences and samples."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch as th

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import linear_gaussian
import variance
from linear_gaussian import ACTION_STD, GAMMA, Setting

S2PG = Setting(horizon=4, dimension=2, norm=1.05, state_std=0.3)
PROBLEMS = pytest.mark.parametrize("setting", [S2PG, replace(S2PG, state_std=0.0)], ids=["S2PG", "BPTT"])


def seeded() -> th.Generator:
    return th.Generator().manual_seed(0)


def log_normal(x, mean, std):
    return -0.5 * ((x - mean) / std).square().sum(-1)


def assert_within_four_standard_errors(samples, exact):
    standard_error = samples.std(0) / math.sqrt(len(samples))
    assert ((samples.mean(0) - exact).abs() <= 4 * standard_error).all()


@PROBLEMS
def test_exact_gradient_by_finite_differences(setting):
    exact, step, number = linear_gaussian.exact_gradient(setting), 1e-5, 0
    assert exact.abs().max() > 0.1
    for parameter in range(3):
        for index in range(setting.dimension**2):
            values = []
            for sign in (1, -1):
                params = setting.parameters
                params[parameter].view(-1)[index] += sign * step
                values.append(linear_gaussian.objective(setting, params).item())
            assert exact[number].item() == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-7)
            number += 1
    assert number == len(exact)


@PROBLEMS
def test_objective_by_monte_carlo(setting):
    setting = replace(setting, horizon=20)
    returns = variance.returns_to_go(linear_gaussian.simulate(setting, 40_000, seeded()).rewards)[0]
    assert_within_four_standard_errors(returns, linear_gaussian.objective(setting, setting.parameters))
    # The test would see an error of a hundredth
    assert returns.std() / math.sqrt(len(returns)) < 0.0025 * returns.mean()


@PROBLEMS
def test_q_and_v_are_what_the_returns_are_on_average(setting):
    episodes = linear_gaussian.simulate(setting, 50_000, seeded())
    returns = variance.returns_to_go(episodes.rewards)
    q_values, values = linear_gaussian.exact_values(setting, episodes)
    assert th.allclose(q_values[-1], GAMMA**3 * episodes.rewards[-1])
    for t in range(setting.horizon):
        for exact in (q_values[t], values[t]):
            # The residual has mean zero wherever it is looked at
            for where in (1.0, episodes.states[t, :, 0], episodes.forces[t, :, 1], exact):
                assert_within_four_standard_errors((returns[t] - exact) * where, 0)
        assert_within_four_standard_errors((q_values[t] - values[t]) * episodes.internal_states[t, :, 0].square(), 0)
    residuals = [(returns[1] - exact[1]).var() for exact in (q_values, values)]
    assert residuals[0] < residuals[1] < returns[1].var()


def test_s2pg_by_autograd_of_one_step_log_probabilities():
    episodes = linear_gaussian.simulate(S2PG, 3, seeded())
    weights = variance.returns_to_go(episodes.rewards)
    assert th.allclose(weights[2], GAMMA**2 * episodes.rewards[2] + GAMMA**3 * episodes.rewards[3])
    result = variance.estimates(S2PG, episodes, weights)
    for n in range(3):
        w, u, k = params = [p.requires_grad_() for p in S2PG.parameters]
        means = episodes.internal_states[:, n] @ w.T + episodes.states[:, n] @ u.T
        log_prob = log_normal(episodes.actions[:, n], means @ k.T, ACTION_STD)
        log_prob = log_prob + log_normal(episodes.next_internal_states[:, n], means, S2PG.state_std)
        gradient = th.autograd.grad((log_prob * weights[:, n]).sum(), params)
        assert th.allclose(result[n], th.cat([g.flatten() for g in gradient]))


@pytest.mark.parametrize("window", [0, 1, 2, 3, 4, 5])
def test_bptt_by_autograd_through_the_last_steps(window):
    setting = replace(S2PG, state_std=0.0)
    episodes = linear_gaussian.simulate(setting, 3, seeded())
    weights = variance.returns_to_go(episodes.rewards)
    result = variance.estimates(setting, episodes, weights, window)
    for n in range(3):
        w, u, k = params = [p.requires_grad_() for p in setting.parameters]
        loss = th.zeros((), dtype=th.float64)
        for t in range(setting.horizon):
            first = max(t + 1 - window, 0) if window else 0
            z = episodes.internal_states[first, n]
            for i in range(first, t + 1):
                z = w @ z + u @ episodes.states[i, n]
            loss = loss + log_normal(episodes.actions[t, n], k @ z, ACTION_STD) * weights[t, n]
        assert th.allclose(result[n], th.cat([g.flatten() for g in th.autograd.grad(loss, params)]))
    full = variance.estimates(setting, episodes, weights)
    assert th.allclose(result, full) == (window in (0, 4, 5))


def test_one_step_by_hand():
    setting = Setting(horizon=1)
    episodes = linear_gaussian.simulate(setting, 5, seeded())
    estimates = variance.estimates(setting, episodes, variance.returns_to_go(episodes.rewards))
    s, e, noise = episodes.states[0, :, 0], episodes.action_noise[0, :, 0], episodes.state_noise[0, :, 0]
    action = -0.6 * s + ACTION_STD * e
    reward = th.exp(-(4 * s.square() + 0.1 * action.square()) / 2)
    assert th.allclose(estimates[:, 0], th.zeros(5, dtype=th.float64))  # z_0 = 0
    assert th.allclose(estimates[:, 1], (-e / ACTION_STD + noise / 0.3) * reward * s)
    assert th.allclose(estimates[:, 2], e / ACTION_STD * reward * 0.6 * s)


@pytest.mark.parametrize("norm", [0.9, 1.0, 1.05])
def test_variance_stays_below_the_bound(norm):
    for setting in (Setting(norm=norm), Setting(norm=norm, state_std=0.0)):
        episodes = linear_gaussian.simulate(setting, 2000, seeded())
        for window in (0, 5) if setting.state_std == 0 else (0,):
            gradients = variance.estimates(setting, episodes, variance.returns_to_go(episodes.rewards), window)
            second_moment = gradients.square().sum(1).mean().item()
            assert 0.001 < second_moment / variance.bound(setting, window) < 1


def test_bound_grows_as_the_paper_says():
    def growth(**kwargs) -> float:
        long, longer = (replace(Setting(**kwargs), horizon=horizon) for horizon in (200, 400))
        # Without the common factor
        factors = [((1 - GAMMA**s.horizon) / (1 - GAMMA)) ** 2 for s in (long, longer)]
        return (variance.bound(longer) / factors[1]) / (variance.bound(long) / factors[0])

    for norm in (0.9, 1.0, 1.05):
        assert growth(norm=norm) == pytest.approx(2, rel=0.01)
    assert growth(norm=0.9, state_std=0.0) == pytest.approx(2, rel=0.1)
    assert growth(norm=1.0, state_std=0.0) == pytest.approx(8, rel=0.05)
    assert growth(norm=1.05, state_std=0.0) == pytest.approx(1.05**400, rel=0.05)


def test_moments_and_test_of_the_bias():
    samples = th.randn(5000, 30, dtype=th.float64, generator=seeded()) * 2 + 1
    moments = variance.Moments(th.ones(30, dtype=th.float64))
    moments.add(samples[:2000])
    moments.add(samples[2000:])
    summary = moments.summary()
    assert summary["variance"] == pytest.approx(samples.var(0).sum().item())
    assert summary["relative_bias"] == pytest.approx(((samples.mean(0) - 1).norm() / math.sqrt(30)).item())
    assert summary["variance_standard_error"] == pytest.approx(
        (samples - 1).square().sum(1).std().item() / 5000**0.5, rel=1e-3
    )
    assert summary["p_value"] > 0.05
    # One component of thirty that is six standard errors off
    samples[:, 7] += 6 * 2 / 5000**0.5
    moments = variance.Moments(th.ones(30, dtype=th.float64))
    moments.add(samples)
    assert moments.summary()["p_value"] < 1e-4


def test_learned_q_is_exact_where_q_is_quadratic():
    setting = replace(S2PG, horizon=3)
    episodes = linear_gaussian.simulate(setting, 2000, seeded())
    # Rewards after the first step would depend on what is not in the features
    quadratic = episodes.states[..., 0] * episodes.actions[..., 1] + 2 * episodes.next_internal_states[..., 0].square() + 0.5
    quadratic[1:] = 0
    episodes = replace(episodes, rewards=quadratic)
    learned = variance.LearnedQ(setting, episodes)
    assert th.allclose(learned(episodes)[0], quadratic[0], atol=1e-4)
    q_values, values = variance.learned_values(setting, learned, episodes)
    at_means = episodes.states[0, :, 0] * -episodes.means[0, :, 1] + 2 * episodes.means[0, :, 0].square() + 0.5
    assert th.allclose(q_values[0], quadratic[0], atol=1e-4) and th.allclose(values[0], at_means, atol=1e-4)
