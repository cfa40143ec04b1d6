"""
A smoke run, not a result: does S2PG-SAC go through 50,000 steps of Humanoid without a fault? Velocities, com inertia, com
velocity and actuator forces are hidden from the policy; the critic sees all.

    python examples/humanoid_smoke.py [--steps 50000] [--out results/humanoid_smoke]

The settings are those of zoo_configs/s2pg_sac.yml for HumanoidNoVelPriv, the paper's, which trains for 2,000,000 steps:
what the policy can do after 50,000 says nothing about the method. About 20 minutes.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from common import LearningCurve, learn, newest, plot_learning_curves, save_figure, save_json
from zoo import ZooRun, make_model, zoo_settings

from sb3_s2pg.envs import list_tasks


def main() -> None:
    """Train, check that everything is finite, write JSON and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/humanoid_smoke"), help="where to write JSON and picture")
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    th.set_num_threads(1)
    task = newest("HumanoidNoVelPriv")
    model: Any = make_model(ZooRun("smoke run", "s2pg_sac", task, args.seed, zoo_settings("s2pg_sac", task), args.steps))
    curve = LearningCurve(task, max(args.steps // 10, 1), n_episodes=5)
    result = {"label": "smoke run", **learn(model, args.steps, curve, n_episodes=20)}

    broken = [name for name, value in model.policy.state_dict().items() if not th.isfinite(value).all()]
    states = model.replay_buffer.next_internal_states[: model.replay_buffer.size()]
    if broken or not np.isfinite(states).all():
        raise FloatingPointError(f"not finite after {model.num_timesteps} steps: {broken or 'stored internal states'}")

    hidden = next(entry.hidden for entry in list_tasks() if entry.id == task)
    print(f"{task}, hidden: {hidden}")
    seconds = result["training_cpu_seconds"]
    print(f"{model.num_timesteps} steps in {seconds:.0f} s, all finite, |z'| <= {np.abs(states).max():.3f}")
    print(f"return {result['mean_return']:.0f} (a smoke run, not a result)")
    save_json(args.out, {"task": task, "steps": model.num_timesteps, "seed": args.seed, "hidden": hidden, "result": result})
    save_figure(args.out, plot_learning_curves([result], f"{task}: a smoke run, not a result"))


if __name__ == "__main__":
    main()
