"""
What memory costs: one update and one prediction of S2PGSAC and S2PGTD3 against SB3's SAC and TD3, interleaved, one
thread, medians of processor seconds.

    python examples/update_time.py [--rounds 40] [--out results/update_time]

Batch 256, z 32, state refresh on, networks as by default (256, 256 for SAC; 400, 300 for TD3). HalfCheetah has 17
observations and 6 actions; "privileged critic" lets the actor see the 8 positions and the critic everything. State kernels are
compared with the privileged critic.
"""

import argparse
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch as th
from common import newest, save_figure, save_json
from matplotlib.figure import Figure
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_s2pg import S2PGSAC, S2PGTD3
from sb3_s2pg.common.kernels import KERNELS

UPDATES_PER_ROUND = 5


def make_models() -> dict[str, dict[str, OffPolicyAlgorithm]]:
    """:return: Models to compare, by group; the first of each is SB3's memoryless algorithm"""
    cheetah, pendulum = newest("HalfCheetah"), "PendulumNoVel-v1"
    kwargs: dict[str, Any] = {"buffer_size": 5000, "learning_starts": 10_000, "device": "cpu", "seed": 0}
    privileged = {"actor_observation": list(range(8))}
    return {
        "HalfCheetah": {
            "SAC": SAC("MlpPolicy", cheetah, **kwargs),
            "privileged critic": S2PGSAC("MlpPolicy", cheetah, policy_kwargs=privileged, **kwargs),
            "default history": S2PGSAC("MlpPolicy", cheetah, **kwargs),
        },
        "Pendulum": {
            "SAC": SAC("MlpPolicy", pendulum, **kwargs),
            "privileged critic": S2PGSAC("MultiInputPolicy", "PendulumNoVelPriv-v1", **kwargs),
            "default history": S2PGSAC("MlpPolicy", pendulum, **kwargs),
        },
        "HalfCheetah, TD3": {
            "TD3": TD3("MlpPolicy", cheetah, train_freq=1, gradient_steps=1, **kwargs),
            "privileged critic": S2PGTD3("MlpPolicy", cheetah, policy_kwargs=privileged, **kwargs),
            "default history": S2PGTD3("MlpPolicy", cheetah, **kwargs),
        },
        "kernels": {
            "SAC": SAC("MlpPolicy", cheetah, **kwargs),
            **{
                kernel: S2PGSAC("MlpPolicy", cheetah, policy_kwargs={**privileged, "state_kernel_class": kernel}, **kwargs)
                for kernel in KERNELS
            },
        },
    }


# Group, model, what is measured, and the ratio not to exceed
BARS = {
    ("HalfCheetah", "privileged critic", "update"): 1.1,
    ("HalfCheetah", "default history", "update"): 1.8,
    ("Pendulum", "default history", "update"): 1.4,
    ("HalfCheetah, TD3", "privileged critic", "update"): 1.1,
    **{("kernels", kernel, "update"): 1.1 for kernel in ("gru", "linear", "rnn")},
    ("kernels", "lstm", "update"): 1.25,
    **{
        (task, model, "predict"): 1.5
        for task in ("HalfCheetah", "Pendulum")
        for model in ("privileged critic", "default history")
    },
}


def update_times(models: dict[str, OffPolicyAlgorithm], rounds: int) -> dict[str, np.ndarray]:
    """
    :param models: Models to compare
    :param rounds: Number of rounds; in each of them every model has its turn
    :return: Seconds per update, one number per round
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        model.learn(2000)  # fills the buffer; learning has not started
        model.train(gradient_steps=20, batch_size=256)
    for _ in range(rounds):
        for name, model in models.items():
            start = process_time()
            model.train(gradient_steps=UPDATES_PER_ROUND, batch_size=256)
            times[name].append((process_time() - start) / UPDATES_PER_ROUND)
    return {name: np.array(seconds) for name, seconds in times.items()}


def predict_times(models: dict[str, OffPolicyAlgorithm], rounds: int) -> dict[str, np.ndarray]:
    """
    :param models: Models to compare
    :param rounds: Number of rounds; in each of them every model has its turn
    :return: Seconds per prediction, one number per round
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    inputs = {}
    for name, model in models.items():
        observation = model.observation_space.sample()
        inputs[name] = (observation, model.predict(observation)[1], np.array([False]))
    for _ in range(rounds):
        for name, model in models.items():
            observation, state, episode_start = inputs[name]
            start = process_time()
            for _ in range(10):
                model.predict(observation, state=state, episode_start=episode_start)
            times[name].append((process_time() - start) / 10)
    return {name: np.array(seconds) for name, seconds in times.items()}


def main() -> None:
    """Measure, print a table, write JSON and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/update_time"), help="where to write JSON and picture")
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    th.set_num_threads(1)

    rows: list[dict[str, Any]] = []
    print(f"{'':16s} {'model':18s} {'':8s} {'median ms':>10s} {'to memoryless':>13s} {'at most':>8s}")
    for task, models in make_models().items():
        memoryless = next(iter(models))
        for what, measure in (("update", update_times), ("predict", predict_times)):
            times = measure(models, args.rounds)
            for name in models:
                # The ratio within a round is what does not depend on how busy the machine is
                ratio = float(np.median(times[name] / times[memoryless]))
                milliseconds = 1e3 * float(np.median(times[name]))
                bar = BARS.get((task, name, what))
                rows.append({"task": task, "model": name, "what": what, "ms": milliseconds, "ratio": ratio, "at_most": bar})
                limit = "" if bar is None else f"{bar:.2f}"
                print(f"{task:16s} {name:18s} {what:8s} {milliseconds:10.2f} {ratio:13.2f} {limit:>8s}", flush=True)
    save_json(args.out, {"rows": rows, "rounds": args.rounds})

    figure = Figure(figsize=(8, 9), layout="constrained")
    axes = figure.subplots()
    ours = [row for row in rows if row["model"] not in ("SAC", "TD3")]
    labels = [f"{row['task']}, {row['what']}\n{row['model']}" for row in ours]
    axes.barh(labels, [row["ratio"] for row in ours])
    axes.axvline(1, color="black", linewidth=1)
    for position, row in enumerate(ours):
        if row["at_most"] is not None:
            axes.plot([row["at_most"]] * 2, [position - 0.4, position + 0.4], color="C3")
    axes.set(xlabel="time relative to SB3's memoryless algorithm (red: not to exceed)")
    axes.invert_yaxis()
    save_figure(args.out, figure)


if __name__ == "__main__":
    main()
