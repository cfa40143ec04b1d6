"""
What a longer memory costs: one update of S2PGSAC, whose gradient needs one time step however long the memory lasts, against
BPTTSAC, the same networks trained through time, and SB3's memoryless SAC.

    python examples/memory_horizon.py [--kernel gru] [--state-dim 32] [--rounds 20] [--out results/memory_horizon]

HalfCheetah with hidden velocities, which the critic sees; batch 256, networks of (256, 256), one thread, medians of processor
seconds, interleaved. BPTTSAC pushes whole sequences through the fused cell of torch, without a loop over time, and starts
them at the stored internal state. "last": 256 sequences, loss at their last step, as the authors of S2PG do; "all": as many
transitions as S2PG learns from, 256 / truncation sequences with a loss at every step.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from common import newest, save_figure, save_json
from matplotlib.figure import Figure
from stable_baselines3 import SAC
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from update_time import update_times

from sb3_s2pg import BPTTSAC, S2PGSAC

# How many times as long BPTT has to take, loss at the last step
BARS = {"BPTTSAC 5 last": 1.5, "BPTTSAC 32 last": 5.0, "BPTTSAC 64 last": 9.0}


def main() -> None:
    """Measure, print a table, write JSON and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/memory_horizon"), help="where to write JSON and picture")
    parser.add_argument("--kernel", choices=("gru", "rnn", "lstm"), default="gru", help="a kernel with a fused cell")
    parser.add_argument("--state-dim", type=int, default=32)
    parser.add_argument("--truncations", type=int, nargs="+", default=[1, 5, 10, 32, 64])
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    th.set_num_threads(1)

    task = newest("HalfCheetahNoVelPriv")
    kwargs: dict[str, Any] = {"buffer_size": 5000, "learning_starts": 10_000, "device": "cpu", "seed": 0}
    memory: dict[str, Any] = {"policy_kwargs": {"state_dim": args.state_dim, "state_kernel_class": args.kernel}}
    models: dict[str, OffPolicyAlgorithm] = {
        "SAC": SAC("MultiInputPolicy", task, **kwargs),
        "S2PGSAC": S2PGSAC("MultiInputPolicy", task, **memory, **kwargs),
    }
    for loss_steps in ("last", "all"):
        for length in args.truncations:
            models[f"BPTTSAC {length} {loss_steps}"] = BPTTSAC(
                "MultiInputPolicy", task, truncation_length=length, loss_steps=loss_steps, **memory, **kwargs
            )
    times = update_times(models, args.rounds)

    rows = []
    print(f"{'one update':18s} {'median ms':>10s} {'to S2PGSAC':>11s} {'at least':>9s}")
    for name, seconds in times.items():
        # The ratio within a round is what does not depend on how busy the machine is
        ratio = float(np.median(seconds / times["S2PGSAC"]))
        bar = BARS.get(name)
        rows.append({"model": name, "ms": 1e3 * float(np.median(seconds)), "ratio": ratio, "at_least": bar})
        print(f"{name:18s} {rows[-1]['ms']:10.2f} {ratio:11.2f} {'' if bar is None else f'{bar:.1f}':>9s}")
    print(f"{task}, {args.kernel}, z {args.state_dim}, medians of {args.rounds} rounds\n")
    save_json(args.out, {"rows": rows, "kernel": args.kernel, "state_dim": args.state_dim, "rounds": args.rounds})

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, color in (("SAC", "C7"), ("S2PGSAC", "C0")):
        axes.axhline(1e3 * np.median(times[name]), color=color, linewidth=2.5, label=name)
    for loss_steps, label in (("last", "256 sequences, loss at the last step"), ("all", "256 steps, loss at every step")):
        medians = [1e3 * np.median(times[f"BPTTSAC {length} {loss_steps}"]) for length in args.truncations]
        axes.plot(args.truncations, medians, marker="o", label=f"BPTTSAC, {label}")
    axes.set(xlabel="truncation (steps)", ylabel="one update (ms)", title=f"{task}, {args.kernel}, z {args.state_dim}", ylim=0)
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(args.out, figure)


if __name__ == "__main__":
    main()
