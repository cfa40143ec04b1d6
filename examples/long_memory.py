"""
How long does memory last? A cue is shown at the first step only and asked for after L steps of distraction (4 cues:
guessing is right in 25 %). S2PG-PPO beside RecurrentPPO, which gets as much processor time, and where --equal-steps
says so beside another one, which gets as many steps: 20 minutes a run with L = 50.

    python examples/long_memory.py [--seeds 3] [--lengths 20 50 100] [--equal-steps 50] [--jobs 2] [--out results/long_memory]

S2PG-PPO has the settings of zoo_configs/s2pg_ppo.yml, RecurrentPPO those in this file. Seeds are 0, 1, 2, ...; the model is
the final one; evaluation is deterministic, on the same 100 episodes for all; times are those of training alone, one thread.
Finished runs are kept in a folder beside the results: the same call goes on where it was stopped (--fresh: from scratch).
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from common import LearningCurve, TimeLimit, learn, plot_learning_curves, run_all, save_figure, save_json
from zoo import ZooRun, make_model, zoo_settings

# Steps of S2PG-PPO, by length
NO_LIMIT = 10**9
STEPS = {20: 300_000, 50: 300_000, 100: 600_000}
OURS, SAME_TIME, SAME_STEPS = "S2PG-PPO", "RecurrentPPO", "RecurrentPPO, as many steps"
# The best of four settings that were tried with L = 20
RECURRENT_PPO: dict[str, Any] = {
    "n_envs": 8,
    "n_timesteps": 1e6,
    "policy": "MlpLstmPolicy",
    "n_steps": 128,
    "batch_size": 128,
    "n_epochs": 10,
    "gamma": 0.99,
    "gae_lambda": 0.98,
    "learning_rate": 1e-3,
    "policy_kwargs": "dict(lstm_hidden_size=64, enable_critic_lstm=True, net_arch=dict(pi=[64], vf=[64]))",
}


@dataclass
class MemoryRun:
    """S2PG-PPO, RecurrentPPO in the same time and, if asked for, with as many steps."""

    length: int
    steps: int  # of S2PG-PPO
    seed: int
    settings: dict[str, dict[str, Any]]  # of both algorithms, as RL Zoo writes them
    equal_steps: bool = False


def train_memory(run: MemoryRun) -> dict[str, Any]:
    """
    :param run: What to train
    :return: Results of all
    """
    th.set_num_threads(1)

    def train(algorithm: str, steps: int, seconds: float, curve_points: int) -> dict[str, Any]:
        env = f"FirstStepCue{run.length}-v0"
        model = make_model(ZooRun(algorithm, algorithm, env, run.seed, run.settings[algorithm], steps))
        curve = LearningCurve(env, max(run.steps // curve_points, 2048), n_episodes=20)
        result = learn(model, steps, curve, 100, callback=TimeLimit(seconds, curve))
        return {**result, "steps": model.num_timesteps}

    ours = train("s2pg_ppo", run.steps, float("inf"), 20)
    results = {OURS: ours, SAME_TIME: train("ppo_lstm", NO_LIMIT, ours["training_cpu_seconds"], 100)}
    if run.equal_steps:
        results[SAME_STEPS] = train("ppo_lstm", run.steps, float("inf"), 20)
    summary = {"mean_return": ours["mean_return"], "training_seconds": ours["training_seconds"]}
    return {**asdict(run), "label": f"L = {run.length}", **results, **summary}


def main() -> None:
    """Train what has not been trained yet, print a table, write JSON and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/long_memory"), help="where to write JSON and picture")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--equal-steps", type=int, nargs="*", default=[50], choices=list(STEPS), help="lengths")
    parser.add_argument("--steps", type=int, help="other than 300k, 300k and 600k")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--fresh", action="store_true", help="forget finished runs")
    args = parser.parse_args()

    runs = []
    for length in args.lengths:
        for seed in range(args.seeds):
            steps = args.steps or STEPS[length]
            settings = {"s2pg_ppo": zoo_settings("s2pg_ppo", f"FirstStepCue{length}-v0"), "ppo_lstm": RECURRENT_PPO}
            run = MemoryRun(length, steps, seed, settings, length in args.equal_steps)
            runs.append((f"length{length}_seed{seed}", run))
    results = run_all(train_memory, runs, args.out.with_name(args.out.name + "_runs"), args.jobs, args.fresh)

    print(f"\n{'':37s} {'success':>8s} {'steps':>9s} {'seconds':>8s}   every seed")
    summary: dict[str, Any] = {}
    curves = []
    for length in args.lengths:
        for name in (OURS, SAME_TIME, SAME_STEPS):
            ours = [result[name] for result in results if result["length"] == length and name in result]
            if not ours:
                continue
            successes = [result["mean_return"] for result in ours]
            steps, seconds = (float(np.mean([result[key] for result in ours])) for key in ("steps", "training_cpu_seconds"))
            label = f"L = {length}, {name}"
            summary[label] = {"success": float(np.mean(successes)), "seeds": successes, "steps": steps, "cpu_seconds": seconds}
            every = "  ".join(f"{value:.2f}" for value in successes)
            print(f"{label:37s} {np.mean(successes):8.2f} {steps:9.0f} {seconds:8.0f}   {every}")
            curves += [{"label": label, "curve": result["curve"]} for result in ours]
    print(f"Share of 100 deterministic episodes, the same for all; {args.seeds} seeds; guessing 0.25\n")
    save_json(args.out, {"summary": summary, "recurrent_ppo": RECURRENT_PPO, "results": results})
    figure = plot_learning_curves(curves, "A cue of the first step, asked for after L steps", x="cpu_seconds")
    # Seconds of the one, and ten minutes of the other
    figure.axes[0].set_xscale("log")
    save_figure(args.out, figure)


if __name__ == "__main__":
    main()
