"""What the examples share: training runs side by side, and writing results."""

import json
import multiprocessing
import platform
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from time import process_time
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from matplotlib.figure import Figure
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_s2pg import S2PGSAC, S2PGTD3
from sb3_s2pg.common.evaluation import LearningCurve, clocks

ALGORITHMS: dict[str, Any] = {"SAC": SAC, "S2PGSAC": S2PGSAC, "S2PGTD3": S2PGTD3}


@dataclass
class Run:
    """One training run; what is not said is left at the algorithm's defaults."""

    label: str
    algorithm: str
    env: str
    steps: int
    seed: int
    policy: str = "MlpPolicy"
    policy_kwargs: dict[str, Any] = field(default_factory=dict)
    progress_bar: bool = False
    tensorboard_log: str | None = None


class TimeLimit(BaseCallback):
    """
    Stop training when the time is over.

    :param seconds: Seconds of the processor
    :param curve: Evaluates meanwhile; its time does not count
    """

    def __init__(self, seconds: float, curve: LearningCurve):
        super().__init__()
        self.seconds, self.curve = seconds, curve

    def _on_training_start(self) -> None:
        self.start = process_time()

    def _on_step(self) -> bool:
        return process_time() - self.start - self.curve.seconds[1] < self.seconds


def train(run: Run, curve_every: int = 1000, curve_episodes: int = 5, n_episodes: int = 20) -> dict[str, Any]:
    """
    :param run: What to train
    :param curve_every: Number of steps between two points of the learning curve
    :param curve_episodes: Number of episodes per point
    :param n_episodes: Number of episodes that evaluate the final model
    :return: The run, its learning curve, and the returns of the final model
    """
    th.set_num_threads(1)
    model = ALGORITHMS[run.algorithm](
        run.policy,
        run.env,
        seed=run.seed,
        device="cpu",
        policy_kwargs=dict(run.policy_kwargs),  # SB3's SAC writes into it
        tensorboard_log=run.tensorboard_log,
    )
    curve = LearningCurve(run.env, curve_every, curve_episodes)
    return {**asdict(run), **learn(model, run.steps, curve, n_episodes, run.progress_bar)}


def learn(
    model: BaseAlgorithm,
    steps: int,
    curve: LearningCurve,
    n_episodes: int,
    progress_bar: bool = False,
    callback: BaseCallback | None = None,
    train: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """
    :param model: Model to train
    :param steps: Number of steps
    :param curve: Evaluates meanwhile
    :param n_episodes: Number of episodes that evaluate the final model
    :param progress_bar: Whether to show one
    :param callback: Another callback
    :param train: Trains the model, with the arguments of ``learn``; None for ``model.learn``
    :return: Learning curve, returns of the final model, seconds of training without evaluation: on the clock on the wall,
        and of the processor, which do not depend on what else the machine does
    """
    start = clocks()
    callbacks: list[BaseCallback] = [curve] if callback is None else [curve, callback]
    (train or model.learn)(steps, callback=callbacks, progress_bar=progress_bar)
    seconds, cpu_seconds = clocks() - start - curve.seconds
    returns = curve.evaluate(n_episodes)
    return {
        "curve": {"steps": curve.steps, "returns": curve.returns, "cpu_seconds": curve.cpu_seconds},
        "returns": returns,
        "mean_return": float(np.mean(returns)),
        "training_seconds": float(seconds),
        "training_cpu_seconds": float(cpu_seconds),
    }


def newest(name: str) -> str:
    """
    :param name: Name of a task without version
    :return: Its id, in the newest version that the installed gymnasium has
    """
    return f"{name}-v{max(spec.version or 0 for spec in gym.registry.values() if spec.name == name)}"


def worker_pool(n_workers: int) -> Executor:
    """
    :param n_workers: Number of runs side by side
    :return: Fresh processes, one thread each
    """
    return ProcessPoolExecutor(n_workers, mp_context=multiprocessing.get_context("spawn"))


def run_all(
    function: Callable[[Any], dict[str, Any]], runs: Iterable[tuple[str, Any]], folder: Path, jobs: int, fresh: bool = False
) -> list[dict[str, Any]]:
    """
    Train several runs side by side; finished ones are kept, so that the same call goes on where it was stopped.

    :param function: Trains a run; its result repeats the fields of the run
    :param runs: File name and what to train (a dataclass); one process each
    :param folder: Where the results of finished runs are kept
    :param jobs: Number of runs side by side
    :param fresh: Whether to forget finished runs
    :return: The results, in the order of the runs
    """
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with worker_pool(jobs) as pool:
        futures = []
        for name, run in runs:
            paths.append(folder / f"{name}.json")
            if not _is_finished(run, paths[-1]):
                futures.append(pool.submit(_train_and_keep, function, run, paths[-1]))
        for future in as_completed(futures):
            done = future.result()
            seconds = f"{done['training_seconds']:.0f} s"
            print(f"{done['label']}, seed {done['seed']}: {done['mean_return']:.1f} in {seconds}", flush=True)
    return [json.loads(path.read_text()) for path in paths]


def _is_finished(run: Any, path: Path) -> bool:
    if not path.exists():
        return False
    result = json.loads(path.read_text())
    # Other settings under the same name are another run
    return all(result.get(name) == value for name, value in asdict(run).items())


def _train_and_keep(function: Callable[[Any], dict[str, Any]], run: Any, path: Path) -> dict[str, Any]:
    result = function(run)
    path.write_text(json.dumps(result))
    return result


def save_json(path: Path, result: dict[str, Any]) -> None:
    """
    :param path: Where to write, without suffix
    :param result: What to write; versions are added
    """
    packages = ("sb3-s2pg", "stable-baselines3", "gymnasium", "torch", "numpy")
    versions = {name: version(name) for name in packages} | {"python": platform.python_version()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps({**result, "versions": versions}, indent=2) + "\n")
    print(f"wrote {path.with_suffix('.json')}")


def save_figure(path: Path, figure: Figure) -> None:
    """
    :param path: Where to write, without suffix
    :param figure: The picture
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=110)
    print(f"wrote {path.with_suffix('.png')}")


def plot_learning_curves(
    results: list[dict[str, Any]], title: str, x: str = "steps", y: str = "return (deterministic)"
) -> Figure:
    """
    :param results: Results of ``train``
    :param title: Title of the picture
    :param x: "steps" or "cpu_seconds"
    :param y: What was evaluated
    :return: A thin line per seed and a thick one for their mean, a colour per label
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, label in enumerate(dict.fromkeys(result["label"] for result in results)):
        curves = [result["curve"] for result in results if result["label"] == label]
        for curve in curves:
            axes.plot(curve[x], curve["returns"], color=f"C{number}", alpha=0.35, linewidth=1)
        n_points = min(len(curve[x]) for curve in curves)
        mean_x, mean_y = (np.mean([curve[key][:n_points] for curve in curves], axis=0) for key in (x, "returns"))
        # A line through a single point would be invisible
        marker = "o" if n_points == 1 else None
        axes.plot(mean_x, mean_y, color=f"C{number}", linewidth=2.5, marker=marker, label=label)
    xlabel = {"steps": "environment steps", "cpu_seconds": "processor seconds of training, one thread"}[x]
    axes.set(xlabel=xlabel, ylabel=y, title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
