"""
The evidence of findings.md, made with `python -m sb3_s2pg.benchmark`: takes names of comparisons, writes their reports.

    python examples/evidence.py wall_clock [wall_clock_privileged cartpole noise ant kernels_cartpole kernels_cue reach ...]
        [--seeds 3] [--steps 20000] [--jobs 2] [--out results/evidence]

Prints the command and a table for each, and writes <out>/<name>/report.html, report.json and pictures. Seeds are 0, 1, 2, ...;
the model is the final one; evaluation is deterministic, on the same episodes for all. What is finished is not run again.
"""

import argparse
import json
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import newest

KERNELS = ("gru", "lstm", "rnn", "linear")
SIZES = (4, 16, 64, 256)
LENGTHS = (10, 20, 50, 100, 200)
STDS = (0.02, 0.1, 0.5)


@dataclass
class Comparison:
    """What to compare, and its budget."""

    envs: list[str]
    algorithms: list[str]  # as the benchmark takes them
    steps: int
    seeds: int = 3
    options: list[str] = field(default_factory=list)


def with_memory(label: str, algorithm: str, **policy_kwargs: Any) -> str:
    """
    :param label: How to call it
    :param algorithm: Algorithm, and settings of its own
    :param policy_kwargs: What differs in its policy
    :return: The same as the benchmark takes it
    """
    separator = "," if ":" in algorithm else ":"
    return f"{label}={algorithm}{separator}policy_kwargs={policy_kwargs!r}"


def noises() -> list[str]:
    """:return: S2PG-SAC with its default, and with noise of three kinds and sizes, not regulated (``state_ent_coef=0``)"""
    kinds = {
        "gaussian": {"state_noise_class": "gaussian"},
        "uniform": {"state_noise_class": "uniform"},
        "ou": {"state_kernel_class": "ou"},
    }
    variants = ["default=s2pg_sac"]
    for name, kind in kinds.items():
        for std in STDS:
            fixed = {"std_type": "fixed", "log_std_init": round(float(np.log(std)), 4)}
            variants.append(with_memory(f"{name} {std}", "s2pg_sac:state_ent_coef=0.0", **kind, state_noise_kwargs=fixed))
    return variants


def kernels(**slow: Any) -> list[str]:
    """
    :param slow: Arguments of kernels that have time constants
    :return: S2PG-PPO with every kernel in every size (z of lstm holds its cell, too)
    """
    variants = []
    for kernel in KERNELS:
        for size in SIZES:
            kwargs = {"state_kernel_kwargs": {} if kernel == "rnn" else slow}
            variants.append(with_memory(f"{kernel} {size}", "s2pg_ppo", state_kernel_class=kernel, state_dim=size, **kwargs))
    return variants


def kernels_and_noises() -> list[str]:
    """:return: S2PG-PPO with what may let memory last: kernels, and noise that the gate scales or not"""
    slow = {"max_time_constant": 1000.0}
    return [
        "linear=s2pg_ppo",
        with_memory("gru", "s2pg_ppo", state_kernel_class="gru", state_kernel_kwargs={**slow, "gated_noise": True}),
        with_memory(
            "gru, plain noise", "s2pg_ppo", state_kernel_class="gru", state_kernel_kwargs={**slow, "gated_noise": False}
        ),
        with_memory("lstm", "s2pg_ppo", state_kernel_class="lstm", state_kernel_kwargs={**slow, "gated_noise": True}),
    ]


# A kernel that moves slowly, and noise that drowns little
SLOW_KERNEL = with_memory(
    "slow kernel, little noise",
    "s2pg_sac:state_ent_coef=0.0",
    kernel_lr_ratio=0.03,
    state_noise_kwargs={"std_type": "fixed", "log_std_init": -4.0},
)
BPTT = [f"bptt_sac:truncation_length={length}" for length in (5, 10)]
COMPARISONS = {
    # Issue 7, evidence 1
    "wall_clock": Comparison(
        ["PendulumNoVel-v1"], ["s2pg_sac", *BPTT], 20_000, options=["--threshold", "-250", "--curve-points", "40"]
    ),
    # The same where the critic sees the velocity
    "wall_clock_privileged": Comparison(
        ["PendulumNoVelPriv-v1"],
        ["s2pg_sac", SLOW_KERNEL, *BPTT],
        10_000,
        options=["--threshold", "-250", "--curve-points", "20"],
    ),
    # Experiments 1 to 3
    "cartpole": Comparison(
        ["CartPoleNoVel-v1"], ["s2pg_ppo", "ppo_lstm", "ppo", "oracle_ppo"], 100_000, 5, ["--threshold", "475"]
    ),
    "noise": Comparison(["PendulumNoVelPriv-v1"], noises(), 10_000, options=["--threshold", "-250"]),
    "ant": Comparison([newest("AntNoVelPriv")], ["s2pg_sac", BPTT[0]], 100_000, 1),
    # Architecture and size
    "kernels_cartpole": Comparison(["CartPoleNoVel-v1"], kernels(), 100_000),
    "kernels_cue": Comparison(["FirstStepCue20-v0"], kernels(max_time_constant=1000.0), 300_000),
    # How far memory reaches
    "reach": Comparison([f"FirstStepCue{length}-v0" for length in LENGTHS], kernels_and_noises(), 300_000),
    "reach_far": Comparison(["FirstStepCue100-v0", "FirstStepCue200-v0"], ["linear=s2pg_ppo"], 1_200_000),
    "reach_sac": Comparison(
        [f"FirstStepCueContinuous{length}-v0" for length in LENGTHS[:2]], ["s2pg_sac", BPTT[1]], 15_000, 1
    ),
}


def print_table(report: dict[str, Any]) -> None:
    """
    :param report: What the benchmark has written
    """
    for env, statistics in report["statistics"].items():
        print(f"\n{env:34s} {'mean':>8s} {'seconds':>8s} {'ms/update':>10s}   every seed")
        for label, row in statistics["return"].items():
            cost, seeds = statistics["cost"][label], row["seeds"].values()
            update = f"{cost['update_cpu_ms']:10.2f}" if cost["update_cpu_ms"] else f"{'':10s}"
            every = "  ".join(f"{value:.3g}" for value in seeds)
            print(f"{label:34s} {row['mean']:8.4g} {cost['cpu_seconds']:8.0f} {update}   {every}")
            for seed, point in statistics["reached"].get(label, {}).items():
                when = f"after {point['steps']} steps, {point['cpu_seconds']:.0f} s" if point else "never"
                print(f"{'':4s}seed {seed}: {report['threshold']:g} {when}")
    print()


def main() -> None:
    """Run the benchmark for every comparison, print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=list(COMPARISONS), metavar="name")
    parser.add_argument("--out", type=Path, default=Path("results/evidence"), help="where to write the reports")
    parser.add_argument("--seeds", type=int, help="other than planned")
    parser.add_argument("--steps", type=int, help="other than planned")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    args = parser.parse_args()

    for name in args.names:
        comparison = COMPARISONS[name]
        arguments = ["--env", *comparison.envs, "--algos", *comparison.algorithms]
        arguments += ["--steps", str(args.steps or comparison.steps), "--seeds", str(args.seeds or comparison.seeds)]
        arguments += [*comparison.options, "--jobs", str(args.jobs), "--out", name]
        print("python -m sb3_s2pg.benchmark", shlex.join(arguments), flush=True)
        args.out.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "sb3_s2pg.benchmark", *arguments], cwd=args.out, check=True)
        print_table(json.loads((args.out / name / "report.json").read_text()))


if __name__ == "__main__":
    main()
