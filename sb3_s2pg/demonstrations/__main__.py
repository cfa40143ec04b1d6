"""
Collect demonstrations of a saved model of Stable-Baselines3, sb3-contrib or this package.

    python -m sb3_s2pg.demonstrations --algo sac --model expert.zip --env Pendulum-v1 --episodes 10 --out demos

Records what the expert sees, usually the full state. What a learner sees of it is derived when the demonstrations are loaded:

    trajectories = sb3_s2pg.demonstrations.load_demonstrations("demos", "PendulumNoVelPriv-v1")
"""

import argparse
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np

from sb3_s2pg.demonstrations import EXPERTS, collect_demonstrations, load_expert, save_demonstrations


def main() -> None:
    """Run the command, end mistakes in one line."""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_s2pg.demonstrations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--algo", required=True, choices=sorted(EXPERTS), help="algorithm of the expert")
    parser.add_argument("--model", required=True, type=Path, help="saved model of the expert, a zip file")
    parser.add_argument("--env", required=True, help="id of the task that the expert acts in")
    parser.add_argument("--out", required=True, type=Path, help="folder to write, which must not exist")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--n-envs", type=int, default=1, help="environments side by side")
    parser.add_argument("--seed", type=int, default=0, help="seed of the environments")
    parser.add_argument("--stochastic", action="store_true", help="sample the expert's actions (else: its best ones)")
    parser.add_argument("--vec-normalize", type=Path, help="vecnormalize.pkl that the expert was trained with")
    args = parser.parse_args()
    try:
        collect(args)
    except (ValueError, OSError, ImportError, AssertionError, gym.error.Error) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


def collect(args: argparse.Namespace) -> None:
    """
    :param args: Arguments of the command
    :raises ValueError: if something is wrong with them; nothing is written then
    """
    if args.out.exists():
        # Before the work, not after it
        raise ValueError(f"--out {args.out} exists: remove it or choose another name")
    trajectories = collect_demonstrations(
        load_expert(args.algo, args.model),
        args.env,
        args.episodes,
        n_envs=args.n_envs,
        seed=args.seed,
        deterministic=not args.stochastic,
        vec_normalize=args.vec_normalize,
        progress_bar=True,
    )
    returns = [float(np.sum(trajectory.rews)) for trajectory in trajectories]
    lengths = [len(trajectory) for trajectory in trajectories]
    save_demonstrations(args.out, trajectories, env=args.env, algo=args.algo, returns=returns)
    print(
        f"{len(trajectories)} episodes of {min(lengths)} to {max(lengths)} steps, {sum(lengths)} in all. Return: mean "
        f"{np.mean(returns):.1f}, std {np.std(returns):.1f}, from {min(returns):.1f} to {max(returns):.1f}. Wrote {args.out}"
    )


if __name__ == "__main__":
    main()
