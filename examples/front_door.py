"""
What the shipped hyperparameter files reach through the command line: trains with `python -m sb3_s2pg.zoo train`, then
evaluates the agent that it has saved.

    python examples/front_door.py [--seeds 3] [--jobs 2] [--out results/front_door]

Seeds are 0, 1, 2, ...; the model is the final one; evaluation is deterministic, on the same 20 episodes for all.
Finished runs are kept in a folder beside the results: the same call goes on where it was stopped (--fresh: from scratch).
"""

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch as th
from common import run_all, save_figure, save_json
from matplotlib.figure import Figure
from rl_zoo3 import create_test_env, get_saved_hyperparams
from zoo import zoo_settings

from sb3_s2pg.common.evaluation import evaluation_returns
from sb3_s2pg.zoo import ZOO_ALGORITHMS

# Algorithm, task, the mean return to reach
TASKS = (("s2pg_sac", "PendulumNoVel-v1", -180.0), ("s2pg_ppo", "CartPoleNoVel-v1", 490.0))


@dataclass
class CommandRun:
    """One call of the command."""

    label: str
    algorithm: str
    env: str
    seed: int
    settings: dict[str, Any]  # of the file: with others it is another run
    steps: int = -1  # those of the file


def train_by_command(run: CommandRun) -> dict[str, Any]:
    """
    :param run: What to train
    :return: The run, and the returns of the saved agent
    """
    th.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sb3_s2pg.zoo", "train", "--algo", run.algorithm, "--env", run.env, "-f", folder]
        command += ["--seed", str(run.seed), "-n", str(run.steps), "--eval-freq", "-1", "--device", "cpu"]
        start = perf_counter()
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
        seconds = perf_counter() - start
        logs = Path(folder) / run.algorithm / f"{run.env}_1"
        hyperparams, stats = get_saved_hyperparams(str(logs / run.env), test_mode=True)
        env = create_test_env(run.env, stats_path=stats, should_render=False, hyperparams=hyperparams)
        # The statistics of the observations come with the environment
        model = ZOO_ALGORITHMS[run.algorithm].load(logs / f"{run.env}.zip", env=env, device="cpu")
        returns = evaluation_returns(model, run.env, 20)
    return {**asdict(run), "returns": returns, "mean_return": float(np.mean(returns)), "training_seconds": seconds}


def main() -> None:
    """Train what has not been trained yet, print a table, write JSON and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/front_door"), help="where to write JSON and picture")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=-1, help="other than those of the files")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--fresh", action="store_true", help="forget finished runs")
    args = parser.parse_args()

    runs = []
    for algorithm, env, _ in TASKS:
        for seed in range(args.seeds):
            run = CommandRun(f"{algorithm}, {env}", algorithm, env, seed, zoo_settings(algorithm, env), args.steps)
            runs.append((f"{algorithm}_seed{seed}_steps{args.steps}", run))
    results = run_all(train_by_command, runs, args.out.with_name(args.out.name + "_runs"), args.jobs, args.fresh)

    summary: dict[str, Any] = {}
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    all_axes = figure.subplots(1, len(TASKS))
    print(f"\n{'':28s} {'mean':>8s} {'at least':>9s}   every seed")
    for axes, (algorithm, env, to_reach) in zip(all_axes, TASKS, strict=True):
        returns = [result["mean_return"] for result in results if result["algorithm"] == algorithm]
        label = f"{algorithm}, {env}"
        summary[label] = {"mean": float(np.mean(returns)), "seeds": returns, "to_reach": to_reach}
        print(f"{label:28s} {np.mean(returns):8.1f} {to_reach:9.0f}   {'  '.join(f'{value:.1f}' for value in returns)}")
        axes.bar([f"seed {seed}" for seed in range(args.seeds)], returns)
        axes.axhline(to_reach, color="C3")
        axes.set(title=label, ylabel="return (deterministic)")
    print(f"{args.seeds} seeds, 20 deterministic episodes each, the same for all\n")
    save_json(args.out, {"summary": summary, "results": results})
    save_figure(args.out, figure)


if __name__ == "__main__":
    main()
