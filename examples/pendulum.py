"""
Does memory solve hidden-velocity Pendulum? S2PG-SAC with its defaults, with a privileged critic, and with memory off;
S2PG-TD3 with its defaults.

    python examples/pendulum.py [--seeds 3] [--steps 20000] [--jobs 2] [--out results/pendulum]

Seeds are 0, 1, 2, ...; the model is the final one; evaluation is deterministic, on the same 20 episodes for all.
Finished runs are kept in a folder beside the results: the same call goes on where it was stopped (--fresh: from scratch).
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common import Run, plot_learning_curves, run_all, save_figure, save_json, train

# Label, algorithm, task, policy, policy_kwargs, and the mean return to reach
VARIANTS: list[tuple[str, str, str, str, dict[str, Any], float | None]] = [
    ("S2PG-SAC", "S2PGSAC", "PendulumNoVel-v1", "MlpPolicy", {}, -200),
    ("S2PG-SAC, privileged critic", "S2PGSAC", "PendulumNoVelPriv-v1", "MultiInputPolicy", {}, -180),
    (
        "S2PG-SAC, memory off",
        "S2PGSAC",
        "PendulumNoVel-v1",
        "MlpPolicy",
        {"state_dim": 0, "use_previous_action": False},
        None,
    ),
    ("SAC, full state", "SAC", "Pendulum-v1", "MlpPolicy", {}, None),
    ("S2PG-TD3", "S2PGTD3", "PendulumNoVel-v1", "MlpPolicy", {}, -220),
]


def main() -> None:
    """Train what has not been trained yet, print a table, write JSON and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/pendulum"), help="where to write JSON and picture")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--fresh", action="store_true", help="forget finished runs")
    args = parser.parse_args()

    runs = [
        (f"{number}_seed{seed}_steps{args.steps}", Run(label, algorithm, env, args.steps, seed, policy, policy_kwargs))
        for seed in range(args.seeds)
        for number, (label, algorithm, env, policy, policy_kwargs, _) in enumerate(VARIANTS)
    ]
    results = run_all(train, runs, args.out.with_name(args.out.name + "_runs"), args.jobs, args.fresh)

    labels = [label for label, *_ in VARIANTS]
    results.sort(key=lambda result: (labels.index(result["label"]), result["seed"]))
    print(f"\n{'':28s} {'mean':>8s} {'to reach':>9s}   every seed")
    summary: dict[str, Any] = {}
    for label, *_, bar in VARIANTS:
        returns = [result["mean_return"] for result in results if result["label"] == label]
        summary[label] = {"mean": float(np.mean(returns)), "seeds": returns, "to_reach": bar}
        wanted = "" if bar is None else f">= {bar:.0f}"
        print(f"{label:28s} {np.mean(returns):8.1f} {wanted:>9s}   " + "  ".join(f"{value:.1f}" for value in returns))
    print(f"Return after {args.steps} steps; {args.seeds} seeds, 20 deterministic episodes each, the same for all\n")
    save_json(args.out, {"summary": summary, "results": results})
    save_figure(args.out, plot_learning_curves(results, "Pendulum-v1, velocity hidden"))


if __name__ == "__main__":
    main()
