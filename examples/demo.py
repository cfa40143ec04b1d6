"""
Pendulum with its velocity hidden: S2PG-SAC beside memoryless SAC, and beside SAC that sees the velocity.

    python examples/demo.py [--out results/demo] [--steps 15000]

Takes about five minutes on two cores. TensorBoard: `tensorboard --logdir runs`.
"""

import argparse
from pathlib import Path

from common import Run, plot_learning_curves, save_figure, save_json, train, worker_pool


def main() -> None:
    """Train, print a table, write JSON and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/demo"), help="where to write JSON and picture")
    parser.add_argument("--steps", type=int, default=15_000, help="training steps of S2PG-SAC")
    parser.add_argument("--baseline-steps", type=int, default=8_000, help="training steps of the two others")
    parser.add_argument("--curve-every", type=int, default=1000, help="steps between two points of the learning curve")
    parser.add_argument("--tensorboard-log", default="runs")
    args = parser.parse_args()

    ours = Run("S2PG-SAC, velocity hidden", "S2PGSAC", "PendulumNoVel-v1", args.steps, seed=0)
    ours.progress_bar, ours.tensorboard_log = True, args.tensorboard_log
    baselines = [
        Run("SAC, velocity hidden", "SAC", "PendulumNoVel-v1", args.baseline_steps, seed=0),
        Run("SAC, full state", "SAC", "Pendulum-v1", args.baseline_steps, seed=0),
    ]
    print(f"Training S2PG-SAC for {args.steps} steps, and the two baselines for {args.baseline_steps} in another process")
    with worker_pool(1) as pool:
        futures = [pool.submit(train, run, args.curve_every) for run in baselines]
        results = [train(ours, args.curve_every), *(future.result() for future in futures)]

    print(f"\n{'':28s} {'steps':>6s} {'return':>8s} {'seconds':>8s}")
    for result in results:
        row = f"{result['steps']:6d} {result['mean_return']:8.1f} {result['training_seconds']:8.0f}"
        print(f"{result['label']:28s} {row}")
    print("Mean return of 20 deterministic episodes, the same for all; one seed\n")
    save_json(args.out, {"results": results})
    save_figure(args.out, plot_learning_curves(results, "Pendulum-v1, one seed"))


if __name__ == "__main__":
    main()
