"""
Every state kernel with every noise in every algorithm: trained for a little while, saved, loaded, and then let run for
100,000 steps in one go, to see that its memory stays within bounds and does not drift away.

    python examples/kernels.py [--steps 3000] [--run-steps 100000] [--jobs 2] [--out results/kernels]

The task is PendulumNoVel-v1, without its time limit in the long run; actions and internal states are sampled with noise. z has
16 entries. Said of each: the largest |z| in the long run, and the mean |z| in its first and in its last tenth. About half a
minute each on one core. S2PGPPO takes no uniform noise (its score is zero inside of the support). This is no comparison of
what is learned, for which it is far too short.
"""

import argparse
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from common import clocks, run_all, save_figure, save_json
from matplotlib.figure import Figure

from sb3_s2pg import S2PGPPO, S2PGSAC, S2PGTD3
from sb3_s2pg.common.kernels import KERNELS
from sb3_s2pg.common.noise import NOISES

TASK = "PendulumNoVel-v1"
ALGORITHMS: dict[str, Any] = {"S2PGSAC": S2PGSAC, "S2PGTD3": S2PGTD3, "S2PGPPO": S2PGPPO}
SETTINGS: dict[str, dict[str, Any]] = {
    "S2PGSAC": {"buffer_size": 10_000, "batch_size": 64},
    "S2PGTD3": {"buffer_size": 10_000, "batch_size": 64},
    "S2PGPPO": {"n_steps": 500, "batch_size": 100},
}


@dataclass
class Combination:
    """What to try."""

    label: str
    algorithm: str
    kernel: str
    noise: str
    steps: int
    run_steps: int
    seed: int = 0


def try_out(combination: Combination) -> dict[str, Any]:
    """
    :param combination: What to try
    :return: The same, and what was seen
    :raises RuntimeError: if something is not finite, or the loaded model acts otherwise than the saved one
    """
    th.set_num_threads(1)
    cls, start = ALGORITHMS[combination.algorithm], clocks()
    policy_kwargs = {"state_kernel_class": combination.kernel, "state_noise_class": combination.noise, "state_dim": 16}
    settings = {**SETTINGS[combination.algorithm], "policy_kwargs": policy_kwargs}
    model = cls("MlpPolicy", TASK, seed=combination.seed, device="cpu", **settings).learn(combination.steps)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")
        loaded = cls.load(Path(folder) / "model", device="cpu")

    # Out of its time limit, which ends an episode after 200 steps
    env = gym.make(TASK, max_episode_steps=combination.run_steps + 1)
    obs, _ = env.reset(seed=combination.seed)
    state: Any = None
    sizes = np.zeros(combination.run_steps)
    largest = 0.0
    for step in range(combination.run_steps):
        if step % (combination.run_steps // 10) == 0:
            for ours, theirs in zip(
                model.predict(obs, state, deterministic=True), loaded.predict(obs, state, deterministic=True), strict=True
            ):
                if not np.array_equal(ours, theirs):
                    raise RuntimeError(f"{combination.label}: the loaded model acts otherwise than the saved one")
        action, state = loaded.predict(obs, state)
        internal_state = np.abs(state[0, : loaded.policy.state_dim])
        if not np.isfinite(internal_state).all():
            raise RuntimeError(f"{combination.label}: z is not finite after {step} steps")
        largest, sizes[step] = max(largest, float(internal_state.max())), internal_state.mean()
        obs, *_ = env.step(action)
    env.close()
    tenths = sizes.reshape(10, -1).mean(axis=1)
    seconds, cpu_seconds = clocks() - start
    return {
        **asdict(combination),
        "largest": largest,
        "mean_of_first_tenth": float(tenths[0]),
        "mean_of_last_tenth": float(tenths[-1]),
        "mean_return": largest,  # what run_all prints of a finished run
        "training_seconds": float(seconds),
        "cpu_seconds": float(cpu_seconds),
    }


def main() -> None:
    """Try all of them, print a table, write JSON and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/kernels"), help="where to write JSON and picture")
    parser.add_argument("--steps", type=int, default=3000, help="of training")
    parser.add_argument("--run-steps", type=int, default=100_000, help="of the long run, a multiple of 10")
    parser.add_argument("--algorithms", choices=ALGORITHMS, nargs="+", default=list(ALGORITHMS))
    parser.add_argument("--jobs", type=int, default=2, help="combinations side by side")
    parser.add_argument("--fresh", action="store_true", help="forget finished ones")
    args = parser.parse_args()

    combinations = [
        Combination(f"{algorithm}, {kernel}, {noise}", algorithm, kernel, noise, args.steps, args.run_steps)
        for algorithm in args.algorithms
        for kernel in KERNELS
        for noise in NOISES
        if NOISES[noise].has_score or algorithm != "S2PGPPO"
    ]
    runs = [(each.label.replace(", ", "_"), each) for each in combinations]
    results = run_all(try_out, runs, args.out.with_name(args.out.name + "_runs"), args.jobs, args.fresh)

    print(f"\n{'':10s} {'kernel':8s} {'noise':10s} {'largest |z|':>12s} {'mean, first tenth':>18s} {'last tenth':>12s}")
    for result in results:
        numbers = f"{result['largest']:12.3f} {result['mean_of_first_tenth']:18.3f} {result['mean_of_last_tenth']:12.3f}"
        print(f"{result['algorithm']:10s} {result['kernel']:8s} {result['noise']:10s} {numbers}")
    print(f"{TASK}, {args.run_steps} steps in one go after {args.steps} steps of training\n")
    save_json(args.out, {"results": results})

    figure = Figure(figsize=(8, 9), layout="constrained")
    axes = figure.subplots()
    labels = [result["label"] for result in results]
    axes.barh(labels, [result["largest"] for result in results], color="C7", label="largest")
    for key, marker in (("mean_of_first_tenth", "o"), ("mean_of_last_tenth", "x")):
        axes.plot([result[key] for result in results], labels, marker, label=key.replace("_", " "))
    axes.set(xlabel="|z|", xscale="log", title=f"{args.run_steps} steps in one go")
    axes.invert_yaxis()
    axes.legend()
    save_figure(args.out, figure)


if __name__ == "__main__":
    main()
