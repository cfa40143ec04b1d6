"""
HalfCheetah with hidden velocities and a privileged critic: S2PG-SAC beside memoryless SAC at equal steps, and beside
RecurrentPPO, which gets as much processor time as S2PG-SAC took.

    python examples/half_cheetah.py [--seeds 3] [--steps 100000] [--jobs 2] [--out results/half_cheetah]

S2PG-SAC has the settings of zoo_configs/s2pg_sac.yml, SAC the same warm-up and SB3's defaults, RecurrentPPO those of RL Zoo's
ppo_lstm.yml for HalfCheetah. Seeds are 0, 1, 2, ...; the model is the final one; evaluation is deterministic, on the same
20 episodes for all; times are processor seconds of training alone, one thread each. About 35 minutes a run.
Finished runs are kept in a folder beside the results: the same call goes on where it was stopped (--fresh: from scratch).
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common import newest, plot_learning_curves, run_all, save_figure, save_json
from zoo import ZooRun, newest_entry, train_zoo, zoo_settings

LABELS = ("S2PG-SAC, privileged critic", "SAC, memoryless", "RecurrentPPO, equal time")


def main() -> None:
    """Train what has not been trained yet, print a table, write JSON and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/half_cheetah"), help="where to write JSON and picture")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100_000, help="of S2PG-SAC and SAC")
    parser.add_argument("--curve-points", type=int, default=20, help="points of the learning curves")
    parser.add_argument("--episodes", type=int, default=20, help="episodes that evaluate the final model")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--fresh", action="store_true", help="forget finished runs")
    args = parser.parse_args()
    partial, privileged = newest("HalfCheetahNoVel"), newest("HalfCheetahNoVelPriv")
    folder = args.out.with_name(args.out.name + "_runs")

    stateful = zoo_settings("s2pg_sac", privileged)
    memoryless = {**{name: stateful[name] for name in ("n_timesteps", "learning_starts")}, "policy": "MlpPolicy"}
    recurrent = zoo_settings("ppo_lstm", newest_entry("ppo_lstm", "HalfCheetah"))
    runs = []
    for seed in range(args.seeds):
        for label, algorithm, env, settings in (
            (LABELS[0], "s2pg_sac", privileged, stateful),
            (LABELS[1], "sac", partial, memoryless),
        ):
            run = ZooRun(label, algorithm, env, seed, settings, args.steps, args.curve_points, n_episodes=args.episodes)
            runs.append((f"{algorithm}_seed{seed}", run))
    results = run_all(train_zoo, runs, folder, args.jobs, args.fresh)

    # RecurrentPPO makes many more steps in that time, and would be evaluated as often
    runs = []
    for result in results:
        if result["algorithm"] == "s2pg_sac":
            run = ZooRun(LABELS[2], "ppo_lstm", partial, result["seed"], recurrent, 20 * args.steps, args.curve_points)
            run.n_episodes, run.seconds = args.episodes, result["training_cpu_seconds"]
            runs.append((f"ppo_lstm_seed{run.seed}", run))
    results += run_all(train_zoo, runs, folder, args.jobs)

    summary: dict[str, Any] = {}
    print(f"\n{'':28s} {'return':>8s} {'steps':>9s} {'seconds':>8s}   every seed")
    for label in LABELS:
        ours = [result for result in results if result["label"] == label]
        returns = [result["mean_return"] for result in ours]
        steps, seconds = (
            float(np.mean([result[key] for result in ours])) for key in ("trained_steps", "training_cpu_seconds")
        )
        summary[label] = {"mean": float(np.mean(returns)), "seeds": returns, "steps": steps, "cpu_seconds": seconds}
        every = "  ".join(f"{value:.0f}" for value in returns)
        print(f"{label:28s} {np.mean(returns):8.0f} {steps:9.0f} {seconds:8.0f}   {every}")
    print(f"{partial}, {args.seeds} seeds, {results[0]['n_episodes']} deterministic episodes each, the same for all\n")
    save_json(args.out, {"summary": summary, "results": results})
    save_figure(args.out, plot_learning_curves(results, f"{partial}: velocities hidden", x="cpu_seconds"))


if __name__ == "__main__":
    main()
