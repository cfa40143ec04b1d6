"""
Algorithms with and without memory, compared on a task of yours.

    python -m sb3_s2pg.benchmark --env PendulumNoVel-v1 --algos s2pg_sac bptt_sac sac --seeds 5 --steps 20000 --out report

Settings are those of RL Zoo's and this package's hyperparameter files, if there is an entry for the task, else defaults;
name:setting=value,... changes some of an algorithm, and it may be named several times with different ones. label=name:... says
how tables and pictures call it:

    --algos s2pg_sac bptt_sac:truncation_length=5 "long=bptt_sac:truncation_length=32" "window_sac:window_length=16,gamma=0.98"

Every run has a process and a thread of its own. Finished runs are kept in <out>/runs: the same command goes on where it was
stopped, and so does one with more seeds or algorithms. On a cluster, the same command:

    --backend dask --scheduler tcp://host:8786
"""

import argparse
import json
import os
import shlex
import sys
from concurrent.futures import BrokenExecutor
from pathlib import Path

import gymnasium as gym


def make_parser() -> argparse.ArgumentParser:
    """:return: Parser of the arguments"""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_s2pg.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--env", required=True, nargs="+", help="ids of tasks; module:id if the module registers it")
    parser.add_argument("--algos", required=True, nargs="+", metavar="ALGO", help="names, see the table in the README")
    parser.add_argument("--steps", required=True, type=int, help="environment steps of a run")
    parser.add_argument("--out", required=True, type=Path, help="folder of the report")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, which are 0, 1, 2, ...")
    parser.add_argument("--curve-points", type=int, default=20, help="points of a learning curve")
    parser.add_argument("--curve-episodes", type=int, default=5, help="evaluation episodes per point")
    parser.add_argument("--episodes", type=int, default=20, help="evaluation episodes of the final model")
    parser.add_argument("--threshold", type=float, help="a return: the report says when learning curves reach it")
    parser.add_argument("--device", default="cpu", help="of the networks")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side on this machine")
    parser.add_argument("--backend", default="threading", help="joblib backend: dask or ray for a cluster")
    parser.add_argument("--scheduler", help="address of the cluster")
    return parser


def check_numbers(args: argparse.Namespace) -> None:
    """
    :param args: Arguments of the command
    :raises ValueError: if one is too small, or something is named twice
    """
    for name in ("steps", "seeds", "curve_points", "curve_episodes", "episodes", "jobs"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)} must be at least 1")
    for name in ("env", "algos"):
        twice = [value for value in getattr(args, name) if getattr(args, name).count(value) > 1]
        if twice:
            raise ValueError(f"--{name} names {twice[0]} twice")


def compare(args: argparse.Namespace) -> int:
    """
    :param args: Arguments of the command
    :return: Exit code: 1 if runs have died
    :raises ValueError: if something is wrong with them; nothing has been trained then
    """
    check_numbers(args)
    # They import what takes seconds, or is not installed
    from sb3_s2pg.benchmark.algorithms import parse_contestant
    from sb3_s2pg.benchmark.grid import check_folder, connected, make_runs, result_path, run_all
    from sb3_s2pg.benchmark.report import write_report
    from sb3_s2pg.benchmark.runs import check_run

    contestants = [parse_contestant(text) for text in args.algos]
    labels = [contestant.label for contestant in contestants]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ValueError(f"--algos calls two algorithms {twice!r}: give them different labels")
    budget = {name: getattr(args, name) for name in ("steps", "curve_points", "curve_episodes", "episodes", "device")}
    runs = make_runs(contestants, args.env, args.seeds, budget)
    folder = args.out / "runs"
    check_folder(args.out, runs)
    for run in runs:
        # What cannot be made must not show after hours; another seed makes no difference
        if run.seed == 0:
            check_run(run)
    with connected(args.backend, args.scheduler):
        failed = run_all(runs, folder, args.jobs)

    results = [json.loads(path.read_text()) for run in runs if (path := result_path(folder, run)).exists()]
    if results:
        command = "python -m sb3_s2pg.benchmark " + shlex.join(sys.argv[1:])
        write_report(args.out, command, contestants, runs, results, args.threshold)
        print(f"wrote {args.out / 'report.html'}")
    if failed:
        print(f"{len(failed)} of {len(runs)} runs have died: the same command tries them again", file=sys.stderr)
    return 1 if failed else 0


def main() -> None:
    """Run the command, end mistakes in one line."""
    args = make_parser().parse_args()
    try:
        sys.exit(compare(args))
    except (ValueError, OSError, ImportError, BrokenExecutor, gym.error.Error) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped: the same command goes on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
