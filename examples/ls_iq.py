"""
A policy that does not see velocities learns from demonstrations, without rewards: LS-IQ, and the same with memory off.

    python examples/ls_iq.py [--task pendulum] [--seeds 3] [--steps 30000] [--jobs 2] [--out results/ls_iq_pendulum]

SB3's SAC is the expert: it sees the full state, and 10 of its episodes are recorded. Of them the policy sees what the
task shows, the critic sees the full state (privileged), both for the learner with memory and for the memoryless one
(state_dim=0; neither reads the previous action). Rewards are used for evaluation only. Both learners have LSIQ's
defaults, but batches of 128 + 128, to save time, and a learning rate that falls to 0: with a constant one the policy is lost
and found again now and then. For inverted_pendulum rewards and the first temperature are smaller, too (see the script).
Seeds are 0, 1, 2, ...; the model is the final one; evaluation is deterministic, on the same 20 episodes for all.
Tasks: pendulum; inverted_pendulum, whose episodes end when the pole falls, and the expert's never do, which tells the learner
something about the reward.
The expert, its demonstrations and finished runs are kept in a folder beside the results: the same call goes on where it
was stopped (--fresh: from scratch).
"""

import argparse
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from common import LearningCurve, learn, newest, plot_learning_curves, run_all, save_figure, save_json
from imitation.data.types import TrajectoryWithRew
from imitation.util.logger import configure
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env

from sb3_s2pg import LSIQ
from sb3_s2pg.demonstrations import collect_demonstrations, load_demonstrations, save_demonstrations

N_DEMONSTRATIONS = 10
SETTINGS: dict[str, Any] = {"batch_size": 128, "expert_batch_size": 128}
MEMORYLESS = {"state_dim": 0}


@dataclass
class Task:
    """The expert's task and the learner's, and how good the learner has to be: a return, or a share of the expert's."""

    expert_env: str
    env: str
    expert_steps: int
    bar: float
    bar_is_share: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


TASKS = {
    "pendulum": Task("Pendulum-v1", "PendulumNoVelPriv-v1", expert_steps=20_000, bar=-250),
    "inverted_pendulum": Task(
        newest("InvertedPendulum"),
        newest("InvertedPendulumNoVelPriv"),
        expert_steps=20_000,
        bar=0.8,
        bar_is_share=True,
        # Smaller rewards: an absorbing state is worth -1 / (reg_mult (1 - gamma)), -200 by default, which takes a critic long
        # to learn and hides what else there is
        settings={"allow_variable_horizon": True, "reg_mult": 10.0, "ent_coef": "auto_0.1"},
    ),
}


@dataclass
class ImitationRun:
    """One training run; what is not said is left at the algorithm's defaults."""

    label: str
    env: str
    steps: int
    seed: int
    demonstrations: str
    settings: dict[str, Any] = field(default_factory=dict)
    curve_every: int = 1000
    learning_rate: float = 3e-4  # at the start, it falls to 0


def record_expert(task: Task, folder: Path) -> Path:
    """
    :param task: The task
    :param folder: Where expert and demonstrations are kept
    :return: Folder of the demonstrations
    """
    path = folder / f"demonstrations_{task.expert_steps}"
    if not path.exists():
        expert = SAC("MlpPolicy", task.expert_env, learning_rate=1e-3, seed=0, device="cpu")
        expert.learn(task.expert_steps)
        expert.save(folder / f"expert_{task.expert_steps}")
        trajectories = collect_demonstrations(expert, task.expert_env, N_DEMONSTRATIONS)
        save_demonstrations(path, trajectories, env=task.expert_env, expert_steps=task.expert_steps)
    return path


def train(run: ImitationRun) -> dict[str, Any]:
    """
    :param run: What to train
    :return: The run, its learning curve, and the returns of the final model
    """
    th.set_num_threads(1)
    trainer = LSIQ(
        demonstrations=load_demonstrations(run.demonstrations, run.env),
        venv=make_vec_env(run.env, 1, seed=run.seed),
        custom_logger=configure(format_strs=[]),
        seed=run.seed,
        device="cpu",
        learning_rate=lambda progress: run.learning_rate * progress,
        **run.settings,
    )
    curve = LearningCurve(run.env, run.curve_every, n_episodes=5)
    return {**asdict(run), **learn(trainer.rl_algo, run.steps, curve, n_episodes=20, train=trainer.train)}


def main() -> None:
    """Record the expert, train what has not been trained yet, print a table, write JSON and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=sorted(TASKS), default="pendulum")
    parser.add_argument("--out", type=Path, help="where to write JSON and picture (default: results/ls_iq_<task>)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--expert-steps", type=int, help="training of the expert (default: depends on the task)")
    parser.add_argument("--curve-every", type=int, default=1000, help="steps between two points of the learning curves")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--fresh", action="store_true", help="forget finished runs and the expert")
    args = parser.parse_args()
    task = TASKS[args.task]
    task.expert_steps = args.expert_steps or task.expert_steps
    out = args.out or Path(f"results/ls_iq_{args.task}")
    folder = out.with_name(out.name + "_runs")
    if args.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    demonstrations = record_expert(task, folder)
    episodes = load_demonstrations(demonstrations)
    expert_return = float(np.mean([episode.rews.sum() for episode in episodes if isinstance(episode, TrajectoryWithRew)]))

    settings = {**SETTINGS, **task.settings}
    variants = {"LS-IQ": settings, "LS-IQ, memory off": {**settings, "policy_kwargs": MEMORYLESS}}
    runs = [
        (
            f"{number}_seed{seed}_steps{args.steps}",
            ImitationRun(label, task.env, args.steps, seed, str(demonstrations), kwargs, args.curve_every),
        )
        for seed in range(args.seeds)
        for number, (label, kwargs) in enumerate(variants.items())
    ]
    results = run_all(train, runs, folder, args.jobs)

    bar = task.bar * expert_return if task.bar_is_share else task.bar
    print(f"\n{'':20s} {'mean':>8s} {'to reach':>9s}   every seed")
    print(f"{'expert, full state':20s} {expert_return:8.1f} {'':>9s}   {N_DEMONSTRATIONS} demonstrations")
    summary: dict[str, Any] = {"expert": {"mean": expert_return, "steps": task.expert_steps}}
    for number, label in enumerate(variants):
        returns = [result["mean_return"] for result in results if result["label"] == label]
        summary[label] = {"mean": float(np.mean(returns)), "seeds": returns, "to_reach": None if number else bar}
        wanted = "" if number else f">= {bar:.0f}"
        print(f"{label:20s} {np.mean(returns):8.1f} {wanted:>9s}   " + "  ".join(f"{value:.1f}" for value in returns))
    print(f"{task.env} after {args.steps} steps without rewards; 20 deterministic episodes each, the same for all\n")
    save_json(out, {"summary": summary, "results": results})
    figure = plot_learning_curves(
        results, f"{task.expert_env}, velocity hidden: {N_DEMONSTRATIONS} demonstrations, no rewards"
    )
    figure.axes[0].axhline(expert_return, color="black", linestyle="--", label="expert, full state")
    figure.axes[0].legend()
    save_figure(out, figure)


if __name__ == "__main__":
    main()
