"""
S2PG with a trust region: S2PG-TRPO on CartPole with hidden velocities, with its default noise on z', with the little noise
that S2PG-PPO has, and without memory.

    python examples/trust_region.py [--seeds 3] [--steps 60000] [--jobs 2] [--out results/trust_region]

Seeds are 0, 1, 2, ...; the model is the final one; evaluation is deterministic, on the same 20 episodes for all.
Half a minute a run. Finished runs are kept in a folder beside the results: the same call goes on where it was stopped
(--fresh: from scratch).
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from common import LearningCurve, Run, learn, plot_learning_curves, run_all, save_figure, save_json
from stable_baselines3.common.env_util import make_vec_env

from sb3_s2pg import S2PGTRPO

TASK = "CartPoleNoVel-v1"
VARIANTS: dict[str, dict[str, Any]] = {
    "S2PG-TRPO": {},
    "with S2PG-PPO's noise": {"state_noise_kwargs": {"log_std_init": -4.0}},
    "without memory": {"state_dim": 0, "use_previous_action": False},
}


def train(run: Run) -> dict[str, Any]:
    """
    :param run: What to train
    :return: The run, its learning curve, and the returns of the final model
    """
    th.set_num_threads(1)
    env = make_vec_env(run.env, 8, seed=run.seed)
    policy_kwargs: dict[str, Any] = {"net_arch": [64, 64], **run.policy_kwargs}
    model = S2PGTRPO(
        run.policy, env, n_steps=128, batch_size=256, target_kl=0.02, seed=run.seed, device="cpu", policy_kwargs=policy_kwargs
    )
    curve = LearningCurve(run.env, max(run.steps // 20, 1), n_episodes=5)
    return {**asdict(run), **learn(model, run.steps, curve, n_episodes=20)}


def main() -> None:
    """Train what has not been trained yet, print a table, write JSON and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/trust_region"), help="where to write JSON and picture")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--fresh", action="store_true", help="forget finished runs")
    args = parser.parse_args()

    runs = [
        (f"{number}_seed{seed}", Run(label, "S2PGTRPO", TASK, args.steps, seed, policy_kwargs=policy_kwargs))
        for seed in range(args.seeds)
        for number, (label, policy_kwargs) in enumerate(VARIANTS.items())
    ]
    results = run_all(train, runs, args.out.with_name(args.out.name + "_runs"), args.jobs, args.fresh)

    print(f"\n{'':24s} {'mean':>8s} {'seconds':>8s}   every seed")
    summary: dict[str, Any] = {}
    for label in VARIANTS:
        ours = [result for result in results if result["label"] == label]
        returns = [result["mean_return"] for result in ours]
        seconds = float(np.mean([result["training_cpu_seconds"] for result in ours]))
        summary[label] = {"mean": float(np.mean(returns)), "seeds": returns, "cpu_seconds": seconds}
        print(f"{label:24s} {np.mean(returns):8.1f} {seconds:8.0f}   {'  '.join(f'{value:.1f}' for value in returns)}")
    print(f"{TASK}, {args.steps} steps, {args.seeds} seeds\n")
    save_json(args.out, {"summary": summary, "results": results})
    save_figure(args.out, plot_learning_curves(results, f"{TASK}: trust region and noise on z'"))


if __name__ == "__main__":
    main()
