"""
A picture of every family of tasks, and below each frame which entries of the observation the policy sees.

    python examples/tasks.py [--out results/tasks]
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

if sys.platform == "linux" and "DISPLAY" not in os.environ:
    # Has to be said before MuJoCo is imported
    os.environ.setdefault("MUJOCO_GL", "egl")

import gymnasium as gym
import numpy as np
from common import save_figure
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sb3_s2pg.envs import PointMassDoors, PointMassMemory, list_tasks

FAMILIES = (
    *("CartPoleNoVelPriv", "MountainCarContinuousNoVelPriv", "PendulumNoVelPriv", "LunarLanderContinuousNoVelPriv"),
    *("InvertedPendulumNoVelPriv", "HopperNoVelPriv", "Walker2dNoVelPriv", "HalfCheetahNoVelPriv", "AntNoVelPriv"),
    *("HumanoidNoVelPriv", "HopperNoVelMass", "HumanoidNoVelMass", "PointMassMemoryPriv", "PointMassDoorsPriv"),
    "FirstStepCue20",
)
STEPS = 12
SEEN, UNSEEN = (0.35, 0.65, 0.35), (0.85, 0.3, 0.3)


def waypoints(task: PointMassMemory) -> list[tuple[float, float]]:
    """
    :param task: A point-mass task that has been reset
    :return: Where a point that knows everything would go, one after the other
    """
    doors = zip(task.doors_x, task.walls_y, strict=True) if isinstance(task, PointMassDoors) else []
    return [point for x, y in doors for point in ((x, y - 5), (x, y + 5))] + [tuple(task.goal)]


def play(env: gym.Env) -> Any:
    """
    :param env: A task
    :return: The last observation of a few random steps, or of the way to the goal
    """
    observation, _ = env.reset(seed=4)
    env.action_space.seed(0)
    task = env.unwrapped
    if not isinstance(task, PointMassMemory):
        for _ in range(STEPS):
            observation, *_ = env.step(env.action_space.sample())
        return observation
    for point in waypoints(task):
        while np.linalg.norm(point - task.position) > 1:
            x, y = point - task.position
            observation, *_ = env.step(np.array([np.arctan2(y, x) % (2 * np.pi) / np.pi - 1]))
    return observation


def draw_entries(axes: Axes, observation: dict[str, np.ndarray]) -> None:
    """
    Draw which entries are hidden, as a strip.

    :param axes: Where
    :param observation: ``observation`` and ``privileged``
    """
    full = observation["privileged"]
    partial = np.zeros_like(full)
    partial[: len(observation["observation"])] = observation["observation"]
    # Entries that happen to be zero are not counted as hidden, masses are hidden whatever they are
    visible = (partial == full) & (np.arange(len(full)) < len(observation["observation"]))
    axes.imshow(np.where(visible[:, None], SEEN, UNSEEN)[None], aspect="auto", interpolation="nearest")
    axes.set_xlabel(f"{visible.sum()} of {len(full)} entries seen", fontsize=7)
    axes.set_xticks([])
    axes.set_yticks([])


def draw_cue(axes: Axes, env: gym.Env) -> None:
    """
    Draw the observations of an episode of FirstStepCue, which has no frames.

    :param axes: Where
    :param env: The task
    """
    observations = [env.reset(seed=4)[0]]
    over = False
    while not over:
        observation, _, over, *_ = env.step(0)
        observations.append(observation)
    axes.imshow(np.transpose(observations), aspect="auto", cmap="coolwarm", vmin=-1, vmax=1, interpolation="nearest")
    axes.set_xlabel("observations over time: cue, and noise", fontsize=7)
    axes.set_yticks([])


def draw(figure: Figure, cell: Any, env_id: str) -> None:
    """
    Draw one task.

    :param figure: Figure to draw into
    :param cell: Its part of the grid
    :param env_id: Id of the task
    """
    name = env_id.split("-v")[0].removesuffix("Priv")
    if name.startswith("FirstStepCue"):
        axes = figure.add_subplot(cell)
        axes.set_title(name, fontsize=8)
        draw_cue(axes, gym.make(env_id))
        return
    frame_cell, strip_cell = cell.subgridspec(2, 1, height_ratios=(12, 1), hspace=0.04)
    axes = figure.add_subplot(frame_cell)
    axes.set_title(name, fontsize=8)
    axes.axis("off")
    env = gym.make(env_id, render_mode="rgb_array")
    observation = play(env)
    try:
        axes.imshow(np.asarray(env.render()))
    except Exception as error:
        # No OpenGL on this machine: what the task hides can still be shown
        print(f"{env_id} cannot be rendered here: {error!r}")
        axes.text(0.5, 0.5, "not rendered", ha="center", transform=axes.transAxes)
    draw_entries(figure.add_subplot(strip_cell), observation)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "tasks")
    args = parser.parse_args()

    ids = {task.id.split("-v")[0]: task.id for task in list_tasks()}
    figure = Figure(figsize=(11, 8), layout="constrained")
    cells = figure.add_gridspec(3, 5)
    for index, name in enumerate(FAMILIES):
        draw(figure, cells[index], ids[name])
        print(ids[name])
    save_figure(args.out, figure)


if __name__ == "__main__":
    main()
