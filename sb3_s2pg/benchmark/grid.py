"""All runs of a comparison, side by side, here or on a cluster. What is finished is kept."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

try:
    import joblib
except ImportError as error:
    raise ImportError(f"the benchmark needs joblib, install it with `pip install sb3-s2pg[benchmark]` ({error})") from error

from sb3_s2pg.benchmark.algorithms import Contestant, make_settings, task_name
from sb3_s2pg.benchmark.runs import Run, machine

# What a failed run leaves: the end of what it has printed
LOG_CHARACTERS = 10_000


def make_runs(contestants: Sequence[Contestant], envs: Sequence[str], n_seeds: int, budget: dict[str, Any]) -> list[Run]:
    """
    :param contestants: Algorithms
    :param envs: Tasks
    :param n_seeds: Number of seeds
    :param budget: What all runs have in common
    :return: Every combination; one seed after the other, so that what is finished can be compared
    :raises ValueError: if a task cannot be shown as an algorithm wants to see it
    """
    settings = {}
    for env in envs:
        for contestant in contestants:
            try:
                settings[env, contestant.label] = make_settings(contestant, task_name(env), budget["steps"])
            except ValueError as error:
                raise ValueError(f"{contestant.label} on {env}: {error}") from error
    runs = []
    for seed in range(n_seeds):
        for env in envs:
            for contestant in contestants:
                source, of_env = settings[env, contestant.label]
                model = contestant.algorithm.model
                runs.append(Run(contestant.label, model, env, seed, settings=of_env, source=source, **budget))
    return runs


def run_in_process(description: dict[str, Any]) -> dict[str, Any]:
    """
    Train a run in a process of its own, on whichever machine this is called.

    :param description: A ``Run``, as a dictionary
    :return: ``result``, or ``error`` in a line and ``log``
    """
    with tempfile.TemporaryDirectory() as folder:
        path, log_path = Path(folder) / "result.json", Path(folder) / "log.txt"
        with open(log_path, "w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "sb3_s2pg.benchmark.runs", str(path)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                # Small networks get slower with more than one thread, and the runs would be in each other's way
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            assert process.stdin is not None
            try:
                # The pipe stays open: the process ends when it is closed, or when this one dies
                process.stdin.write(json.dumps(description) + "\n")
                process.stdin.flush()
                code = process.wait()
            finally:
                process.kill()
                with contextlib.suppress(BrokenPipeError):  # it has died before it could read
                    process.stdin.close()
                process.wait()
        if code == 0:
            return {"result": json.loads(path.read_text())}
        printed = log_path.read_text(errors="replace")
        return {"error": reason_of(code, printed), "log": printed[-LOG_CHARACTERS:]}


def reason_of(code: int, printed: str) -> str:
    """
    :param code: Exit code of a run's process
    :param printed: What it has printed
    :return: Why it died, in a line
    """
    if code < 0:
        name = signal.Signals(-code).name
        hint = ", as systems do that run out of memory" if -code == signal.SIGKILL else ""
        return f"its process was killed by {name}{hint}"
    lines = [line for line in printed.splitlines() if line.strip()]
    last = lines[-1].strip() if lines else f"its process ended with code {code} and no message"
    if "MemoryError" in last or "can't allocate memory" in last:
        return f"out of memory ({last}): take a smaller buffer_size, or fewer runs side by side (--jobs)"
    return last


@contextlib.contextmanager
def connected(backend: str, scheduler: str | None) -> Iterator[None]:
    """
    :param backend: Name of a joblib backend
    :param scheduler: Address of the cluster
    :raises ValueError: if there is no such backend, or the cluster cannot be reached
    """
    with contextlib.ExitStack() as stack:
        if backend == "dask":
            try:
                from distributed import Client
            except ImportError as error:
                raise ImportError(f"--backend dask: install it with `pip install sb3-s2pg[dask]` ({error})") from error
            if scheduler is None:
                raise ValueError("--backend dask needs the address of the cluster, --scheduler tcp://host:8786")
            try:
                client = stack.enter_context(Client(scheduler, timeout=10))
            except (OSError, ValueError) as error:
                raise ValueError(f"--scheduler {scheduler}: the cluster cannot be reached ({error})") from error
            if not client.scheduler_info()["workers"]:
                raise ValueError(f"--scheduler {scheduler}: the cluster has no workers")
            try:
                # joblib would wait for ever for a worker that cannot take up its task
                client.run(machine)
            except ImportError as error:
                raise ValueError(f"--scheduler {scheduler}: workers need sb3-s2pg[benchmark], too ({error})") from error
        elif backend == "ray":
            try:
                import ray
                from ray.util.joblib import register_ray
            except ImportError as error:
                raise ImportError(f"--backend ray: install it with `pip install ray` ({error})") from error
            try:
                ray.init(address=scheduler)
            except (ConnectionError, ValueError) as error:
                raise ValueError(f"--scheduler {scheduler}: the cluster cannot be reached ({error})") from error
            stack.callback(ray.shutdown)
            register_ray()
        elif scheduler is not None:
            raise ValueError(f"--scheduler {scheduler} is for --backend dask or ray, not for {backend}")
        try:
            stack.enter_context(joblib.parallel_config(backend=backend))
        except ValueError as error:
            raise ValueError(f"--backend {backend}: {error}") from error
        yield


def outcomes(runs: Sequence[Run], jobs: int) -> Iterator[dict[str, Any]]:
    """
    :param runs: What to train
    :param jobs: Number of runs side by side
    :return: What came of each, together with its ``number``, as soon as the backend hands it over
    """
    calls = [joblib.delayed(_numbered)(number, asdict(run)) for number, run in enumerate(runs)]
    options: dict[str, Any] = {"n_jobs": jobs, "batch_size": 1, "pre_dispatch": "all"}
    try:
        parallel = joblib.Parallel(return_as="generator_unordered", **options)
    except ValueError:
        # Backends like multiprocessing's (ray's is one) hand over everything at the end
        parallel = joblib.Parallel(**options)
    yield from parallel(calls)


def _numbered(number: int, description: dict[str, Any]) -> dict[str, Any]:
    return {"number": number, **run_in_process(description)}


def write_atomically(path: Path, text: str) -> None:
    """
    :param path: File to write; nobody ever sees a part of it
    :param text: What to write
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def result_path(folder: Path, run: Run) -> Path:
    """
    :param folder: Where results are kept
    :param run: A run
    :return: File of its result
    """
    return folder / f"{run.name}.json"


def failure_path(folder: Path, run: Run) -> Path:
    """
    :param folder: Where results are kept
    :param run: A run
    :return: File that says why it died
    """
    return folder / f"{run.name}.failed.txt"


def check_folder(out: Path, runs: Sequence[Run]) -> None:
    """
    :param out: Output folder
    :param runs: What is asked for
    :raises ValueError: if it holds results of something else
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"--out {out} is a file: choose another name")
    folder = out / "runs"
    if not folder.is_dir() and any(out.iterdir()):
        raise ValueError(f"--out {out} holds something else: choose another folder")
    expected = {path.name for run in runs for path in (result_path(folder, run), failure_path(folder, run))}
    others = sorted(path.name for path in folder.glob("[!.]*") if path.name not in expected)
    if others:
        raise ValueError(
            f"--out {out} holds results of other runs, which have other algorithms, tasks, steps or settings "
            f"({len(others)}, {others[0]} the first): choose another folder"
        )


def run_all(runs: Sequence[Run], folder: Path, jobs: int) -> dict[str, str]:
    """
    Train what has not been finished yet.

    :param runs: What to train
    :param folder: Where results are kept
    :param jobs: Number of runs side by side
    :return: Why runs have died, by their names
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [run for run in runs if not result_path(folder, run).exists()]
    failed = {}
    for count, outcome in enumerate(outcomes(missing, jobs) if missing else (), 1):
        run = missing[outcome["number"]]
        failure = failure_path(folder, run)
        if "error" in outcome:
            failed[run.name] = outcome["error"]
            write_atomically(failure, outcome["error"] + "\n\n" + outcome["log"])
            print(f"[{count}/{len(missing)}] {run}: DIED, {outcome['error']} (see {failure})", file=sys.stderr, flush=True)
            continue
        result = outcome["result"]
        write_atomically(result_path(folder, run), json.dumps(result))
        failure.unlink(missing_ok=True)
        print(f"[{count}/{len(missing)}] {run}: {result['mean_return']:.1f} in {result['seconds']:.0f} s", flush=True)
    return failed
