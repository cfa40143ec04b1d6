"""
How noisy are gradients with memory? S2PG's and BPTT's Monte-Carlo estimates against the exact gradients of their objectives.

The task is that of linear_gaussian.py, with noise on z' for S2PG and without for BPTT. Both estimate, without baseline,

    sum_t score_t G_t,   G_t = sum_{k >= t} gamma^k r_k  (GPOMDP),  or gamma^t Q_t, or gamma^t (Q_t - V_t),

where S2PG's score is d log pi(a_t, z_{t+1} | o_t, z_t) and BPTT's is d log pi(a_t | o_0 ... o_t) through the recursion;
truncated, it goes through the last 5 or 10 applications of the kernel. The learned Q is, at every step, a least squares fit
of quadratic features of (s, c, z, a, z') to the returns of other episodes, and its V is that Q at the means of a and z'.

The paper's bounds, with |r| <= 1, x = (z, o), norms in the mean square and at their largest over time: scores of different
steps are uncorrelated, so the variance is at most F sum_{k < T} E |score_k|^2 with F = (1 - gamma^T)^2 / (1 - gamma)^2
(Minkowski's inequality over the rewards). S2PG: E |score_k|^2 <= (|K|^2 / sigma_a^2 + d / sigma_z^2) |x|^2 +
d |m|^2 / sigma_a^2, thus F T and 1 / sigma_z^2. BPTT: E |score_k|^2 <= (|K| |x| sum_{j <= k} rho^j / sigma_a)^2 +
d |m|^2 / sigma_a^2, thus F T below rho = 1, F T^3 at 1 and F rho^(2 T) above. They are drawn with their constants, not fitted.

    python examples/variance.py [--samples 40000] [--out results/variance]
"""

import argparse
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch as th
from common import save_figure, save_json
from linear_gaussian import (
    ACTION_STD,
    GAMMA,
    Episodes,
    Setting,
    closed_loop,
    covariances,
    exact_gradient,
    exact_values,
    objective,
    simulate,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HORIZONS = (5, 10, 20, 50, 100, 200)
NORMS = (0.9, 1.0, 1.05)
TRUNCATIONS = (5, 10)


def returns_to_go(rewards: th.Tensor) -> th.Tensor:
    """
    :param rewards: Rewards, (T, n)
    :return: sum_{k >= t} gamma^k r_k
    """
    discounts = GAMMA ** th.arange(len(rewards), dtype=th.float64)
    return (discounts[:, None] * rewards).flip(0).cumsum(0).flip(0)


class LearnedQ:
    """
    A least squares fit of quadratic features to returns, one per step.

    :param setting: The problem
    :param episodes: Episodes to learn from
    """

    def __init__(self, setting: Setting, episodes: Episodes):
        self.pairs = th.triu_indices(5 * setting.dimension, 5 * setting.dimension)
        self.weights = []
        for t, returns in enumerate(returns_to_go(episodes.rewards)):
            features = self.features(episodes, t)
            gram = features.T @ features
            ridge = 1e-9 * gram.trace() * th.eye(len(gram), dtype=th.float64)  # z_0 = 0, and BPTT's z' is no free variable
            self.weights.append(th.linalg.solve(gram + ridge, features.T @ returns))

    def features(self, episodes: Episodes, t: int) -> th.Tensor:
        """
        :param episodes: Episodes
        :param t: Step
        :return: 1 and all products of two entries of (s, c, z, a, z'), (n, features)
        """
        before = (episodes.states[t], episodes.forces[t], episodes.internal_states[t])
        inputs = th.cat([*before, episodes.actions[t], episodes.next_internal_states[t]], dim=1)
        products = inputs[:, self.pairs[0]] * inputs[:, self.pairs[1]]
        return th.cat([th.ones(len(inputs), 1, dtype=th.float64), products], dim=1)

    def __call__(self, episodes: Episodes) -> th.Tensor:
        """
        :param episodes: Episodes
        :return: gamma^t Q at each step, (T, n)
        """
        return th.stack([self.features(episodes, t) @ weights for t, weights in enumerate(self.weights)])


class Moments:
    """
    Mean and variance of the estimates of single episodes, bit by bit.

    :param exact: Exact gradient
    """

    def __init__(self, exact: th.Tensor):
        self.exact, self.n = exact, 0
        self.sums = th.zeros(2, len(exact), dtype=th.float64)
        self.squares = th.zeros(2, dtype=th.float64)

    def add(self, gradients: th.Tensor) -> None:
        """
        :param gradients: Estimates, (n, parameters)
        """
        errors = gradients - self.exact
        self.n += len(errors)
        self.sums += th.stack([errors.sum(0), errors.square().sum(0)])
        norms = errors.square().sum(1)
        self.squares += th.stack([norms.sum(), norms.square().sum()])

    def summary(self) -> dict[str, float]:
        """:return: Variance (trace of the covariance) of one episode's estimate, the bias, and what to see it against"""
        bias, second = self.sums / self.n
        variances = (second - bias.square()) * self.n / (self.n - 1)
        norms, squared_norms = (self.squares / self.n).tolist()
        variance, exact = variances.sum().item(), self.exact.norm().item()
        deviations = bias.abs() / (variances / self.n).sqrt().clamp(min=1e-300)
        largest = deviations.max().item()
        # Each of the P components may be the largest: the chance that one of P independent ones is
        p_value = -math.expm1(len(bias) * math.log1p(-min(math.erfc(largest / math.sqrt(2)), 1 - 1e-16)))
        return {
            "episodes": self.n,
            "variance": variance,
            "variance_standard_error": math.sqrt(max(squared_norms - norms**2, 0) / self.n),
            "relative_variance": variance / exact**2,
            "relative_bias": bias.norm().item() / exact,
            "relative_standard_error": math.sqrt(variance / self.n) / exact,
            "largest_deviation_in_standard_errors": largest,
            "p_value": p_value,
        }


def estimates(setting: Setting, episodes: Episodes, weights: th.Tensor, window: int = 0) -> th.Tensor:
    """
    :param setting: The problem
    :param episodes: Episodes
    :param weights: What the scores are multiplied by, (T, n)
    :param window: Number of applications of the kernel that BPTT's gradient goes through, 0 for all
    :return: The gradient in (W, U, K) that each episode estimates, (n, parameters)
    """
    from_state, _, gain = setting.parameters
    action_scores = episodes.action_noise / ACTION_STD * weights[..., None]  # in a's mean
    mean_scores = action_scores @ gain  # in m
    if setting.state_std > 0:
        mean_scores = mean_scores + episodes.state_noise / setting.state_std * weights[..., None]
    else:
        direct = mean_scores
        mean_scores = direct.clone()
        beyond = th.linalg.matrix_power(from_state, window)
        for t in range(setting.horizon - 2, -1, -1):
            mean_scores[t] += mean_scores[t + 1] @ from_state
            if window and t + window < setting.horizon:
                mean_scores[t] -= direct[t + window] @ beyond
    pairs = ((mean_scores, episodes.internal_states), (mean_scores, episodes.states), (action_scores, episodes.means))
    return th.cat([th.einsum("tni,tnj->nij", scores, inputs).flatten(1) for scores, inputs in pairs], dim=1)


def bound(setting: Setting, window: int = 0) -> float:
    """
    :param setting: The problem
    :param window: As for ``estimates``
    :return: The paper's bound of the variance, see above
    """
    loop = closed_loop(setting, setting.parameters)
    steps = covariances(loop.transition, loop.noise, loop.start, setting.horizon)
    d, gain = setting.dimension, setting.parameters[2].square().sum().item()
    inputs = max((c.trace() - c[d : 2 * d, d : 2 * d].trace()).item() for c in steps)
    means = max((loop.mean @ c @ loop.mean.T).trace().item() for c in steps)
    total = 0.0
    for k in range(setting.horizon):
        if setting.state_std > 0:
            through_mean = gain / ACTION_STD**2 + d / setting.state_std**2
        else:
            through_mean = gain / ACTION_STD**2 * sum(setting.norm**j for j in range(min(k + 1, window or k + 1))) ** 2
        total += through_mean * inputs + d / ACTION_STD**2 * means
    return ((1 - GAMMA**setting.horizon) / (1 - GAMMA)) ** 2 * total


def learned_values(setting: Setting, learned: LearnedQ, episodes: Episodes) -> tuple[th.Tensor, th.Tensor]:
    """
    :param setting: The problem
    :param learned: Q
    :param episodes: Episodes
    :return: gamma^t Q, and a V that goes with it: gamma^t Q at the means of a and z', (T, n)
    """
    actions = episodes.means @ setting.parameters[2].T
    return learned(episodes), learned(replace(episodes, actions=actions, next_internal_states=episodes.means))


def study(setting: Setting, samples: int, generator: th.Generator) -> list[dict[str, Any]]:
    """
    :param setting: The problem of S2PG; that of BPTT has no noise on z'
    :param samples: Number of episodes, divided by the dimension; where T > 10, Q gets the fraction 10 / T of them
    :param generator: Random numbers
    :return: What was measured, a row per estimator
    """
    rows = []
    for method, problem in (("S2PG", setting), ("BPTT", replace(setting, state_std=0.0))):
        exact = exact_gradient(problem)
        moments: dict[tuple[int, str], Moments] = {}
        returns = th.zeros(0, dtype=th.float64)
        learned = None
        if problem.dimension <= 4:  # Q has 3241 features at d = 16
            n_fit = max(5 * samples // problem.horizon, 50)
            learned = LearnedQ(problem, simulate(problem, n_fit, generator))
        n_episodes = max(samples // problem.dimension, 20)
        n_with_q = max(n_episodes * 10 // max(problem.horizon, 10), 20)
        chunk = max(250_000 // (problem.horizon * problem.dimension), 1)
        for start in range(0, n_episodes, chunk):
            episodes = simulate(problem, min(chunk, n_episodes - start), generator)
            to_go = returns_to_go(episodes.rewards)
            returns = th.cat([returns, to_go[0]])
            weights = {"return": to_go}
            if start < n_with_q:
                q_values, values = exact_values(problem, episodes)
                weights |= {"exact Q": q_values, "exact Q - V": q_values - values}
                if learned is not None:
                    q_values, values = learned_values(problem, learned, episodes)
                    weights |= {"learned Q": q_values, "learned Q - V": q_values - values}
            for window in (0, *TRUNCATIONS) if method == "BPTT" else (0,):
                for name in weights if window == 0 else weights.keys() & {"return", "exact Q - V"}:
                    gradients = estimates(problem, episodes, weights[name], window)
                    moments.setdefault((window, name), Moments(exact)).add(gradients)
        j = objective(problem, problem.parameters).item()
        j_deviation = (returns.mean().item() - j) / (returns.std().item() / math.sqrt(len(returns)))
        bounds = {window: bound(problem, window) for window in {window for window, _ in moments}}
        for window, name in sorted(moments):
            row = {**asdict(setting), "method": method, "window": window, "weight": name, "bound": bounds[window]}
            summary = moments[window, name].summary()
            rows.append({**row, **summary, "J": j, "J_deviation_in_standard_errors": j_deviation})
    return rows


def settings() -> list[Setting]:
    """:return: All problems: horizon by norm, then norm, sigma_z and dimension on their own, at T = 50"""
    result = [Setting(horizon=horizon, norm=norm) for norm in NORMS for horizon in HORIZONS]
    result += [Setting(norm=norm) for norm in (0.5, 0.8, 0.95, 1.02)]
    result += [Setting(state_std=state_std) for state_std in (0.05, 0.1, 0.2, 0.6, 1.0)]
    return result + [Setting(dimension=dimension) for dimension in (4, 16)]


def label(row: dict[str, Any]) -> str:
    """
    :param row: A result
    :return: Name of its estimator
    """
    method = f"{row['method']}-{row['window']}" if row["window"] else row["method"]
    return f"{method}, {row['weight']}"


def is_truncated(row: dict[str, Any]) -> bool:
    """
    :param row: A result
    :return: Whether the gradient goes through fewer steps than there are
    """
    return 0 < row["window"] < row["horizon"]


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """
    :param rows: Results
    :return: What the tests of all estimators that should be without bias say together, and what those say that should not
    """
    unbiased = [row for row in rows if not row["window"] and "learned" not in row["weight"]]
    truncated = [row for row in rows if is_truncated(row) and row["weight"] == "exact Q - V"]
    smallest = min(row["p_value"] for row in unbiased)
    s2pg = [row for row in unbiased if row["method"] == "S2PG"]
    return {
        "tests": len(unbiased),
        "tests_below_5_percent": sum(row["p_value"] < 0.05 for row in unbiased),
        "smallest_p_value": smallest,
        "p_value_of_all": -math.expm1(len(unbiased) * math.log1p(-smallest)),
        "largest_J_deviation": max(abs(row["J_deviation_in_standard_errors"]) for row in rows),
        "truncated": len(truncated),
        "truncated_found": sum(row["p_value"] < 0.001 for row in truncated),
        "largest_share_of_bound": max(row["variance"] / row["bound"] for row in unbiased if row["weight"] == "return"),
        "s2pg_largest_relative_error_of_Q_minus_V": max(r["relative_bias"] for r in s2pg if r["weight"] == "exact Q - V"),
    }


def draw(rows: list[dict[str, Any]]) -> Figure:
    """
    :param rows: Results
    :return: Variance and bias against the horizon, a column per norm of the kernel; variance against noise, dimension, norm
    """
    figure = Figure(figsize=(13, 11), layout="constrained")
    panels = figure.subplots(3, 3)
    default = Setting()

    def lines(axes: Axes, x: str, y: str, weight: str, norm: float = default.norm) -> None:
        fixed = {"horizon": default.horizon, "state_std": default.state_std, "dimension": default.dimension, "norm": norm}
        del fixed[x]
        chosen = [row for row in rows if row["weight"] == weight and all(row[key] == value for key, value in fixed.items())]
        for number, name in enumerate(dict.fromkeys(label(row) for row in chosen)):
            ours = sorted((row for row in chosen if label(row) == name), key=lambda row: row[x])
            axes.plot([row[x] for row in ours], [row[y] for row in ours], f"C{number}o-", markersize=4, label=name)
            if y == "variance" and "-" not in name:
                axes.plot([row[x] for row in ours], [row["bound"] for row in ours], f"C{number}--", label=f"{name}: bound")
        xscale = "linear" if x == "norm" else "log"
        axes.set(xlabel=x.replace("_", " "), ylabel=y.replace("_", " "), xscale=xscale, yscale="log")
        axes.grid(alpha=0.3)

    for column, norm in enumerate(NORMS):
        lines(panels[0][column], "horizon", "variance", "return", norm)
        # With the return the bias would be lost in the noise
        lines(panels[1][column], "horizon", "relative_bias", "exact Q - V", norm)
        panels[0][column].set(title=f"norm of the kernel's Jacobian {norm}")
    for axes, x in zip(panels[2], ("state_std", "dimension", "norm"), strict=True):
        lines(axes, x, "variance", "return")
    for line in (0, 1):
        panels[line][0].legend(fontsize=7)
    return figure


def main() -> None:
    """Estimate, print a table, write JSON and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/variance"), help="where to write JSON and picture")
    parser.add_argument("--samples", type=int, default=40_000, help="episodes of each problem, divided by its dimension")
    args = parser.parse_args()
    if args.samples < 1:
        raise ValueError(f"--samples={args.samples} must be at least 1")
    th.set_num_threads(1)

    generator = th.Generator().manual_seed(0)
    rows = []
    for setting in settings():
        ours = study(setting, args.samples, generator)
        rows += ours
        print(f"\nT {setting.horizon}, norm {setting.norm}, sigma_z {setting.state_std}, dimension {setting.dimension}")
        print(f"{'':24s} {'variance':>10s} {'bound':>10s} {'to |g|^2':>10s} {'bias / |g|':>10s} {'error':>8s} {'p':>8s}")
        for row in ours:
            numbers = f"{row['variance']:10.3g} {row['bound']:10.3g} {row['relative_variance']:10.3g}"
            bias = f"{row['relative_bias']:10.4f} {row['relative_standard_error']:8.4f} {row['p_value']:8.2g}"
            print(f"{label(row):24s} {numbers} {bias}", flush=True)
    summary = summarize(rows)
    print(f"\ngamma {GAMMA}, {args.samples} episodes\n" + "\n".join(f"{key}: {value:.3g}" for key, value in summary.items()))
    save_json(args.out, {"summary": summary, "samples": args.samples, "gamma": GAMMA, "rows": rows})
    save_figure(args.out, draw(rows))


if __name__ == "__main__":
    main()
