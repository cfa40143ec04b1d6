"""
Imitation without seeing all: SB3's SAC, which sees the full state of Pendulum-v1, is recorded for 10 episodes; S2PG-PPO, which
does not see the velocity, learns from them by GAIL without reward, beside a memoryless learner of the same kind.

    python examples/gail.py [--seeds 3] [--steps 300000] [--jobs 2] [--out results/gail]

Of [cos, sin, velocity] the policies see the first two. Critic and discriminator see all three, for both learners; at
deployment neither exists. The discriminator does not see the action: the expert acts without noise and the learner with it,
which would tell the two apart whatever the learner does. No policy reads the previous action, which is mostly noise. Seeds
are 0, 1, 2, ...; expert and demonstrations are the same for all; the model is the final one; evaluation is deterministic, on
the same 20 episodes, with the task's own reward.
Expert and finished runs are kept in a folder beside the results: the same call goes on where it was stopped (--fresh: from
scratch).
"""

import argparse
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from common import plot_learning_curves, run_all, save_figure, save_json
from imitation.data.types import TrajectoryWithRew
from imitation.rewards.reward_nets import BasicRewardNet
from imitation.util.logger import configure
from imitation.util.networks import RunningNorm
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env

from sb3_s2pg import S2PGPPO
from sb3_s2pg.common.evaluation import EVALUATION_SEED, clocks, evaluation_returns
from sb3_s2pg.demonstrations import collect_demonstrations
from sb3_s2pg.gail import S2PGGAIL

ENV = "Pendulum-v1"
VISIBLE = [0, 1]  # of [cos, sin, velocity]
LABELS = ("S2PG-PPO + GAIL", "memoryless + GAIL")
# What is written into z is half of the default in size: memory was seen to learn sooner with it here
MEMORY: dict[str, dict[str, Any]] = {LABELS[0]: {"state_kernel_kwargs": {"input_gain": 0.5}}, LABELS[1]: {"state_dim": 0}}


@dataclass
class Imitation:
    """One training run."""

    label: str
    seed: int
    steps: int
    expert: str  # a saved SAC
    n_demonstrations: int
    curve_points: int
    policy_kwargs: dict[str, Any] = field(default_factory=dict)


def train_expert(path: Path, steps: int) -> None:
    """
    :param path: Where to keep the expert; nothing is done if there is one
    :param steps: Number of steps of training
    """
    if not path.exists():
        print(f"training the expert: SAC, {steps} steps", flush=True)
        th.set_num_threads(1)
        SAC("MlpPolicy", ENV, seed=0, device="cpu").learn(steps).save(path)


def demonstrate(expert: str, n_episodes: int) -> list[TrajectoryWithRew]:
    """
    :param expert: A saved SAC
    :param n_episodes: Number of episodes
    :return: Episodes of the deterministic expert with the full state, always the same ones
    """
    return collect_demonstrations(SAC.load(expert, device="cpu"), ENV, n_episodes, seed=EVALUATION_SEED + 1)


def train(run: Imitation) -> dict[str, Any]:
    """
    :param run: What to train
    :return: The run, its learning curve, and the returns of the final model
    """
    th.set_num_threads(1)
    venv = make_vec_env(ENV, 4, seed=run.seed)
    model = S2PGPPO(
        "MlpPolicy",
        venv,
        n_steps=512,
        batch_size=64,
        gamma=0.95,
        learning_rate=lambda progress: 5e-5 + (1e-3 - 5e-5) * progress,  # of the whole training, not of a round
        use_sde=True,
        sde_sample_freq=4,
        policy_kwargs={
            "actor_observation": VISIBLE,
            "use_previous_action": False,
            "ortho_init": False,
            "activation_fn": th.nn.ReLU,
            "net_arch": [64],
            **run.policy_kwargs,
        },
        seed=run.seed,
        device="cpu",
    )
    # A small one: one that is sure of itself gives no reward to improve by
    discriminator = BasicRewardNet(
        venv.observation_space,
        venv.action_space,
        use_action=False,
        hid_sizes=(32, 32),
        activation=th.nn.Tanh,
        normalize_input_layer=RunningNorm,
    )
    curve: dict[str, list[float]] = {"steps": [], "returns": [], "cpu_seconds": []}
    evaluation = np.zeros(2)

    def evaluate(round_number: int) -> None:
        if model.num_timesteps * run.curve_points >= run.steps * (len(curve["steps"]) + 1):
            now = clocks()
            curve["steps"].append(model.num_timesteps)
            curve["cpu_seconds"].append(float((now - start - evaluation)[1]))
            curve["returns"].append(float(np.mean(evaluation_returns(model, ENV, 5))))
            evaluation[:] += clocks() - now

    with tempfile.TemporaryDirectory() as logs:
        trainer = S2PGGAIL(
            demonstrations=demonstrate(run.expert, run.n_demonstrations),
            venv=venv,
            gen_algo=model,
            reward_net=discriminator,
            demo_batch_size=512,
            n_disc_updates_per_round=4,
            # The paper's is 3, with rounds of 1000 steps and millions of them
            disc_update_interval=1,
            disc_opt_kwargs={"lr": 1e-3},
            custom_logger=configure(logs, ("log",)),
        )
        start = clocks()
        trainer.train(run.steps, callback=evaluate)
        seconds, cpu_seconds = clocks() - start - evaluation
    returns = evaluation_returns(model, ENV, 20)
    return {
        **asdict(run),
        "curve": curve,
        "returns": returns,
        "mean_return": float(np.mean(returns)),
        "training_seconds": float(seconds),
        "training_cpu_seconds": float(cpu_seconds),
    }


def main() -> None:
    """Train what has not been trained yet, print a table, write JSON and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/gail"), help="where to write JSON and picture")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300_000, help="of a learner")
    parser.add_argument("--expert-steps", type=int, default=15_000)
    parser.add_argument("--demonstrations", type=int, default=10, help="episodes of the expert")
    parser.add_argument("--curve-points", type=int, default=30, help="points of the learning curves")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--fresh", action="store_true", help="forget expert and finished runs")
    args = parser.parse_args()

    folder = args.out.with_name(args.out.name + "_runs")
    if args.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    expert = folder / f"expert_{args.expert_steps}.zip"
    train_expert(expert, args.expert_steps)
    episodes = demonstrate(str(expert), args.demonstrations)
    expert_return = float(np.mean([episode.rews.sum() for episode in episodes]))
    print(f"expert: {expert_return:.1f} in {len(episodes)} episodes", flush=True)

    runs = []
    for seed in range(args.seeds):
        for number, label in enumerate(LABELS):
            run = Imitation(label, seed, args.steps, str(expert), args.demonstrations, args.curve_points, MEMORY[label])
            runs.append((f"{number}_seed{seed}_steps{args.steps}", run))
    results = run_all(train, runs, folder, args.jobs)
    results.sort(key=lambda result: (LABELS.index(result["label"]), result["seed"]))

    print(f"\n{'':20s} {'mean':>8s}   every seed")
    print(f"{'expert':20s} {expert_return:8.1f}")
    summary: dict[str, Any] = {"expert": {"mean": expert_return}}
    for label in LABELS:
        returns = [result["mean_return"] for result in results if result["label"] == label]
        summary[label] = {"mean": float(np.mean(returns)), "seeds": returns}
        print(f"{label:20s} {np.mean(returns):8.1f}   " + "  ".join(f"{value:.1f}" for value in returns))
    print(f"Return after {args.steps} steps without reward; {args.seeds} seeds, 20 deterministic episodes, the same for all\n")
    save_json(args.out, {"summary": summary, "results": results})
    save_figure(args.out, plot_learning_curves(results, f"{ENV}, velocity hidden: imitation of {len(episodes)} episodes"))


if __name__ == "__main__":
    main()
