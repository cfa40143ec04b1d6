"""
Point-mass memory: a point has to find its way to a goal that it was shown at the start only. S2PG-SAC beside the same
without memory; the critic of both sees the goal all the time.

    python examples/point_mass.py [--seeds 3] [--steps 200000] [--jobs 2] [--out results/point_mass]

Both have the settings of zoo_configs/s2pg_sac.yml for PointMassMemoryPriv-v0, which cut the episodes of training short;
without memory means neither internal state nor previous action. Seeds are 0, 1, 2, ...; the model is the final one; evaluation
is deterministic, on the same 100 episodes of 1000 steps for all. About ten minutes a run.
Finished runs are kept in a folder beside the results: the same call goes on where it was stopped (--fresh: from scratch).
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common import plot_learning_curves, run_all, save_figure, save_json
from zoo import ZooRun, train_zoo, zoo_settings

TASK = "PointMassMemoryPriv-v0"
WITHOUT_MEMORY = {"state_dim": 0, "use_previous_action": False}


def main() -> None:
    """Train what has not been trained yet, print a table, write JSON and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/point_mass"), help="where to write JSON and picture")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--curve-points", type=int, default=20, help="points of the learning curves")
    parser.add_argument("--episodes", type=int, default=100, help="episodes that evaluate the final model")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--fresh", action="store_true", help="forget finished runs")
    args = parser.parse_args()

    settings = zoo_settings("s2pg_sac", TASK)
    runs = []
    for seed in range(args.seeds):
        for label, name, changed in (("S2PG-SAC", "s2pg_sac", {}), ("without memory", "memoryless", WITHOUT_MEMORY)):
            policy_kwargs = {**settings["policy_kwargs"], **changed}
            run = ZooRun(
                label, "s2pg_sac", TASK, seed, {**settings, "policy_kwargs": policy_kwargs}, args.steps, args.curve_points
            )
            run.curve_episodes, run.n_episodes, run.success = 16, args.episodes, True
            runs.append((f"{name}_seed{seed}", run))
    results = run_all(train_zoo, runs, args.out.with_name(args.out.name + "_runs"), args.jobs, args.fresh)

    summary: dict[str, Any] = {}
    print(f"\n{'':16s} {'success':>8s} {'seconds':>8s}   every seed")
    for label in ("S2PG-SAC", "without memory"):
        ours = [result for result in results if result["label"] == label]
        successes = [result["mean_return"] for result in ours]
        seconds = float(np.mean([result["training_cpu_seconds"] for result in ours]))
        summary[label] = {"success": float(np.mean(successes)), "seeds": successes, "cpu_seconds": seconds}
        every = "  ".join(f"{value:.2f}" for value in successes)
        print(f"{label:16s} {np.mean(successes):8.2f} {seconds:8.0f}   {every}")
    print(f"{TASK}, {args.steps} steps, share of {args.episodes} deterministic episodes, the same for all\n")
    save_json(args.out, {"summary": summary, "results": results})
    title = f"{TASK}: a goal shown at the start only"
    save_figure(args.out, plot_learning_curves(results, title, y="success (deterministic)"))


if __name__ == "__main__":
    main()
