"""What the examples share: training runs side by side, and writing results."""

import json
import multiprocessing
import platform
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch as th
from matplotlib.figure import Figure
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_s2pg import S2PGSAC

ALGORITHMS: dict[str, type[SAC]] = {"SAC": SAC, "S2PGSAC": S2PGSAC}
EVALUATION_SEED = 1000


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


class LearningCurve(BaseCallback):
    """
    Evaluate now and then, on the same episodes.

    :param env: Id of the task
    :param every: Number of steps between two evaluations
    :param n_episodes: Number of evaluation episodes
    """

    def __init__(self, env: str, every: int, n_episodes: int):
        super().__init__()
        self.env_id, self.every, self.n_episodes = env, every, n_episodes
        self.steps: list[int] = []
        self.returns: list[float] = []
        self.seconds = 0.0

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            start = perf_counter()
            self.steps.append(self.num_timesteps)
            self.returns.append(float(np.mean(evaluation_returns(self.model, self.env_id, self.n_episodes))))
            self.seconds += perf_counter() - start
        return True


def evaluation_returns(model: BaseAlgorithm, env: str, n_episodes: int) -> list[float]:
    """
    :param model: The model
    :param env: Id of the task; its episodes depend on the seed only, not on what the model does
    :param n_episodes: Number of episodes
    :return: Return of each of them, deterministic, the same episodes at every call
    """
    returns, _ = evaluate_policy(
        model, make_vec_env(env, 1, seed=EVALUATION_SEED), n_eval_episodes=n_episodes, return_episode_rewards=True
    )
    return [float(value) for value in returns]  # type: ignore[union-attr]


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
        policy_kwargs=run.policy_kwargs,
        tensorboard_log=run.tensorboard_log,
    )
    curve = LearningCurve(run.env, curve_every, curve_episodes)
    start = perf_counter()
    model.learn(run.steps, callback=curve, progress_bar=run.progress_bar)
    seconds = perf_counter() - start - curve.seconds
    returns = evaluation_returns(model, run.env, n_episodes)
    return {
        **asdict(run),
        "curve": {"steps": curve.steps, "returns": curve.returns},
        "returns": returns,
        "mean_return": float(np.mean(returns)),
        "training_seconds": seconds,
    }


def worker_pool(n_workers: int) -> Executor:
    """
    :param n_workers: Number of runs side by side
    :return: Fresh processes, one thread each
    """
    return ProcessPoolExecutor(n_workers, mp_context=multiprocessing.get_context("spawn"))


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


def plot_learning_curves(results: list[dict[str, Any]], title: str) -> Figure:
    """
    :param results: Results of ``train``
    :param title: Title of the picture
    :return: A thin line per seed and a thick one for their mean, a colour per label
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, label in enumerate(dict.fromkeys(result["label"] for result in results)):
        curves = [result["curve"] for result in results if result["label"] == label]
        for curve in curves:
            axes.plot(curve["steps"], curve["returns"], color=f"C{number}", alpha=0.35, linewidth=1)
        mean = np.mean([curve["returns"] for curve in curves], axis=0)
        axes.plot(curves[0]["steps"], mean, color=f"C{number}", linewidth=2.5, label=label)
    axes.set(xlabel="environment steps", ylabel="return (deterministic)", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
