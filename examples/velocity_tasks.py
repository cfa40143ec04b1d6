"""
S2PG-PPO beside RecurrentPPO and memoryless PPO on RL Zoo's hidden-velocity tasks.

    python examples/velocity_tasks.py CartPoleNoVel-v1 [--seeds 5] [--jobs 2] [--out results/CartPoleNoVel-v1]
    python examples/velocity_tasks.py PendulumNoVel-v1 --seeds 3
    python examples/velocity_tasks.py MountainCarContinuousNoVel-v0 --seeds 3

RecurrentPPO has RL Zoo's settings for the task (ppo_lstm.yml), PPO those for the task that shows the velocity (ppo.yml),
S2PG-PPO those of zoo_configs/s2pg_ppo.yml. Seeds are 0, 1, 2, ...; the model is the final one; evaluation is
deterministic, on the same episodes for all; times are processor seconds of training alone, one thread each.
Finished runs are kept in a folder beside the results: the same call goes on where it was stopped (--fresh: from scratch).
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common import plot_learning_curves, run_all, save_figure, save_json
from zoo import ZOO_CONFIGS, ZooRun, train_zoo, zoo_settings

# Task: the one that shows the velocity, and RL Zoo's steps
TASKS = {
    "CartPoleNoVel-v1": ("CartPole-v1", 100_000),
    "PendulumNoVel-v1": ("Pendulum-v1", 100_000),
    "MountainCarContinuousNoVel-v0": ("MountainCarContinuous-v0", 300_000),
}
# S2PG-PPO in the time that RecurrentPPO takes, or less: steps, and what differs from its entry in zoo_configs/s2pg_ppo.yml.
# More steps want a learning rate that falls and larger minibatches, or the return gets worse again
IN_THE_SAME_TIME: dict[str, tuple[int, dict[str, Any]]] = {
    "PendulumNoVel-v1": (700_000, {"learning_rate": "lin_0.001", "batch_size": 256, "gamma": 0.95}),
}


def thousands(steps: int) -> str:
    """
    :param steps: Number of steps
    :return: The same, short
    """
    return f"{steps / 1000:g}k"


def make_runs(task: str, seed: int, steps: int | None = None) -> list[tuple[str, ZooRun]]:
    """
    :param task: Id of the task
    :param seed: Seed
    :param steps: Number of steps, None for RL Zoo's
    :return: What to train, with a file name each
    """
    visible, zoo_steps = TASKS[task]
    longer, other_settings = IN_THE_SAME_TIME.get(task, (None, {}))
    variants: list[tuple[str, str, str, int, dict[str, Any]]] = [
        ("S2PG-PPO", "s2pg_ppo", task, steps or zoo_steps, {}),
        ("RecurrentPPO", "ppo_lstm", task, steps or zoo_steps, {}),
        ("PPO, memoryless", "ppo", visible, steps or zoo_steps, {}),
    ]
    if longer is not None:
        variants.insert(1, ("S2PG-PPO", "s2pg_ppo", task, 7 * steps if steps else longer, other_settings))
    runs = []
    for label, algorithm, entry, n_steps, changes in variants:
        label = f"{label} ({thousands(n_steps)})"
        settings = {**zoo_settings(algorithm, entry), **changes}
        runs.append((f"{algorithm}_steps{n_steps}_seed{seed}", ZooRun(label, algorithm, task, seed, settings, n_steps)))
    return runs


def cpu_seconds(result: dict[str, Any]) -> float:
    """
    :param result: Result of a run
    :return: Processor seconds of training; the clock on the wall for results that are older than this number
    """
    return result.get("training_cpu_seconds", result["training_seconds"])


def main() -> None:
    """Train what has not been trained yet, print a table, write JSON and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("--out", type=Path, help="where to write JSON and picture, default results/<task>")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="other than RL Zoo's")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--fresh", action="store_true", help="forget finished runs")
    parser.add_argument("--only", nargs="+", choices=list(ZOO_CONFIGS), help="train these alone, write no results")
    parser.add_argument("--without", nargs="+", choices=list(ZOO_CONFIGS), default=[], help="leave these out")
    args = parser.parse_args()
    out = args.out or Path("results") / args.task

    runs = [run for seed in range(args.seeds) for run in make_runs(args.task, seed, args.steps)]
    runs = [run for run in runs if run[1].algorithm in (args.only or ZOO_CONFIGS) and run[1].algorithm not in args.without]
    results = run_all(train_zoo, runs, out.with_name(out.name + "_runs"), args.jobs, args.fresh)
    if args.only:
        return

    labels = list(dict.fromkeys(run.label for _, run in runs))
    by_label = {label: [result for result in results if result["label"] == label] for label in labels}
    recurrent = [cpu_seconds(result) for result in results if result["algorithm"] == "ppo_lstm"]
    summary: dict[str, Any] = {}
    print(f"\n{'':32s} {'mean':>8s} {'seconds':>8s} {'of RecurrentPPO':>16s}   every seed")
    for label in labels:
        returns = [result["mean_return"] for result in by_label[label]]
        seconds = float(np.mean([cpu_seconds(result) for result in by_label[label]]))
        summary[label] = {
            "mean": float(np.mean(returns)),
            "seeds": returns,
            "seconds": seconds,
            "of_recurrent": seconds / float(np.mean(recurrent)) if recurrent else None,
        }
        every = "  ".join(f"{value:.1f}" for value in returns)
        ratio = "" if not recurrent else f"{summary[label]['of_recurrent']:.2f}"
        print(f"{label:32s} {np.mean(returns):8.1f} {seconds:8.0f} {ratio:>16s}   {every}")
    print(f"{args.task}, {args.seeds} seeds, {results[0]['n_episodes']} deterministic episodes each, the same for all\n")
    save_json(out, {"task": args.task, "summary": summary, "results": results})
    save_figure(out, plot_learning_curves(results, f"{args.task}, {args.seeds} seeds"))


if __name__ == "__main__":
    main()
