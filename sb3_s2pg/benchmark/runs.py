"""
One training run: what determines it, and what is measured in it.

``python -m sb3_s2pg.benchmark.runs result.json`` reads a run from standard input and writes its result. Every run has a
process of its own, so that its memory can be measured, and so that it can die alone.
"""

import hashlib
import json
import os
import platform
import re
import sys
import threading
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_s2pg.benchmark.algorithms import evaluation_wrapper, task_name
from sb3_s2pg.common.callbacks import record_episode
from sb3_s2pg.common.evaluation import EVALUATION_SEED, LearningCurve, clocks, evaluation_env
from sb3_s2pg.zoo.experiment import S2PGExperimentManager
from sb3_s2pg.zoo.models import make_model

PACKAGES = ("sb3-s2pg", "stable-baselines3", "sb3-contrib", "rl_zoo3", "gymnasium", "torch", "numpy")
# The seed whose run writes down an episode of internal states, and of how many steps at most
DRAWN_SEED, DRAWN_STEPS = 0, 1000


@dataclass(frozen=True)
class Run:
    """Everything that determines a run."""

    label: str
    algorithm: str  # as RL Zoo calls it
    env: str
    seed: int
    steps: int
    settings: dict[str, Any]  # complete, as RL Zoo writes them
    source: str  # where the settings are from
    curve_points: int
    curve_episodes: int
    episodes: int
    device: str

    @property
    def name(self) -> str:
        """:return: File name, without suffix; different if anything that determines the run is"""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:10]
        return f"{slug(self.env)}_{slug(self.label)[:60]}_seed{self.seed}_{digest}"

    def __str__(self) -> str:
        return f"{self.label}, {self.env}, seed {self.seed}"


def slug(text: str) -> str:
    """
    :param text: A text
    :return: The same, fit for a file name
    """
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text).strip("_")


class UpdateClock:
    """
    Time that a model spends in updates, and how many there are: gradient steps of critic (and actor) off-policy, minibatches
    of PPO, whole updates of TRPO.

    :param model: The model, whose ``train`` is timed from now on
    """

    def __init__(self, model: Any):
        self.model = model
        self.seconds = np.zeros(2)
        self.minibatches = 0
        if hasattr(model, "n_epochs"):
            # It counts epochs itself
            model.policy.optimizer.register_step_post_hook(self._count)
        self._train = model.train
        model.train = self.train

    def train(self, *args: Any, **kwargs: Any) -> None:
        """The model's ``train``, timed."""
        start = clocks()
        self._train(*args, **kwargs)
        self.seconds += clocks() - start

    def _count(self, *_: Any) -> None:
        self.minibatches += 1

    @property
    def updates(self) -> int:
        return self.minibatches or int(self.model._n_updates)


def peak_memory() -> float | None:
    """:return: The most memory that this process has occupied so far, in MB; None where the system does not say"""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss, which begins with what the parent had
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        return int(found[1]) / 1024 if found else None
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    return None


def machine() -> dict[str, Any]:
    """:return: What this machine is, and the versions of what runs on it"""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return {
        "system": platform.platform(),
        "processor": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
    }


def make(run: Run) -> tuple[BaseAlgorithm, partial[VecEnv]]:
    """
    :param run: What to train
    :return: The model, and what makes an environment to evaluate it in, always with the same episodes
    """
    model, manager = make_model(run.algorithm, task_name(run.env), run.settings, run.steps, run.seed, run.device)
    return model, partial(make_evaluation_env, manager, run.settings)


def check_run(run: Run) -> None:
    """
    :param run: A run
    :raises ValueError: if its model cannot be made
    """
    try:
        model, _ = make(run)
    except (ValueError, TypeError, AssertionError, MemoryError) as error:
        raise ValueError(f"{run.label} on {run.env}: {error}") from error
    assert model.env is not None
    model.env.close()


def make_evaluation_env(manager: S2PGExperimentManager, settings: dict[str, Any]) -> VecEnv:
    """
    :param manager: What has made the model
    :param settings: Its settings
    :return: An environment to evaluate it in
    """
    manager.seed, manager.env_wrapper = EVALUATION_SEED, evaluation_wrapper(settings)
    return manager.create_envs(1, eval_env=True)


def train(run: Run) -> dict[str, Any]:
    """
    :param run: What to train
    :return: The run, and what was measured; times are of training alone, without evaluation
    """
    th.set_num_threads(1)
    imports_mb = peak_memory()
    model, make_env = make(run)
    updates = UpdateClock(model)
    curve = LearningCurve(make_env, max(run.steps // run.curve_points, 1), run.curve_episodes)
    start = clocks()
    model.learn(run.steps, callback=curve)
    seconds, cpu_seconds = (float(value) for value in clocks() - start - curve.seconds)
    peak_mb = peak_memory()
    returns = curve.evaluate(run.episodes)
    update_seconds, update_cpu_seconds = (float(value) for value in updates.seconds)
    per_update = 1e3 / updates.updates if updates.updates else None
    return {
        **asdict(run),
        "curve": {
            "steps": curve.steps,
            "returns": curve.returns,
            "seconds": curve.wall_seconds,
            "cpu_seconds": curve.cpu_seconds,
        },
        "returns": returns,
        "mean_return": float(np.mean(returns)),
        "trained_steps": model.num_timesteps,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "steps_per_second": model.num_timesteps / seconds,
        "updates": updates.updates,
        "update_ms": per_update and per_update * update_seconds,
        "update_cpu_ms": per_update and per_update * update_cpu_seconds,
        "peak_memory_mb": peak_mb,
        "imports_memory_mb": imports_mb,
        "episode": recorded_episode(model, make_env) if run.seed == DRAWN_SEED else None,
        "machine": machine(),
    }


def recorded_episode(model: BaseAlgorithm, make_env: partial[VecEnv]) -> dict[str, Any] | None:
    """
    :param model: Trained model
    :param make_env: Makes the environment
    :return: Internal states, actions and return of an episode; None if the policy has no internal state that we know of
    """
    if getattr(model.policy, "state_dim", 0) == 0:
        return None
    states, actions, rewards = record_episode(model, evaluation_env(model, make_env))
    return {
        "states": np.round(states[:DRAWN_STEPS].astype(float), 3).tolist(),
        "actions": np.round(actions[:DRAWN_STEPS].astype(float), 3).tolist(),
        "return": float(rewards.sum()),
    }


def end_with_parent() -> None:
    """End this process when the one that has started it does, however that ends: nobody would take the result."""
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    """Train the run that standard input describes, write the result to the file that is named."""
    run = Run(**json.loads(sys.stdin.readline()))
    threading.Thread(target=end_with_parent, daemon=True).start()
    Path(sys.argv[1]).write_text(json.dumps(train(run)))


if __name__ == "__main__":
    main()
