"""
What memory costs on-policy: steps per second of S2PGPPO beside SB3's PPO and sb3-contrib's RecurrentPPO, interleaved.

    python examples/steps_per_second.py [--rounds 8] [--out results/steps_per_second]

HalfCheetah, 4 environments, n_steps 512, batch 128, 10 epochs, networks of [64, 64]. In every round each model collects one
rollout and learns from it; seconds are those of the processor, one thread. Speeds and ratios are those of the whole time, over
an even number of rounds: an episode ends in every second one, and there RecurrentPPO, which takes minibatches with an episode
start step by step, needs twice as long.
"""

import argparse
from pathlib import Path
from time import process_time
from typing import Any

import torch as th
from common import newest, save_figure, save_json
from matplotlib.figure import Figure
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_s2pg import S2PGPPO

N_ENVS, N_STEPS = 4, 512


def make_models() -> dict[str, OnPolicyAlgorithm]:
    """:return: Models to compare"""
    settings: dict[str, Any] = {"n_steps": N_STEPS, "batch_size": 128, "n_epochs": 10, "device": "cpu", "seed": 0}
    variants: dict[str, tuple[type[OnPolicyAlgorithm], str, dict[str, Any]]] = {
        "PPO": (PPO, "MlpPolicy", {}),
        "S2PGPPO, z 64": (S2PGPPO, "MlpPolicy", {"state_dim": 64}),
        "S2PGPPO, z 128": (S2PGPPO, "MlpPolicy", {"state_dim": 128}),
        "RecurrentPPO, LSTM 64": (RecurrentPPO, "MlpLstmPolicy", {"lstm_hidden_size": 64}),
        "RecurrentPPO, LSTM 128": (RecurrentPPO, "MlpLstmPolicy", {"lstm_hidden_size": 128}),
    }
    models = {}
    for name, (algorithm, policy, policy_kwargs) in variants.items():
        env = make_vec_env(newest("HalfCheetah"), N_ENVS, seed=0)
        net_arch = {"pi": [64, 64], "vf": [64, 64]}
        models[name] = algorithm(policy, env, policy_kwargs={"net_arch": net_arch, **policy_kwargs}, **settings)
    return models


def main() -> None:
    """Measure, print a table, write JSON and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/steps_per_second"), help="where to write JSON and picture")
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    if args.rounds < 2 or args.rounds % 2:
        parser.error(f"--rounds {args.rounds} must be even: an episode ends in every second round")
    th.set_num_threads(1)

    models = make_models()
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for number in range(args.rounds + 1):
        for name, model in models.items():
            start = process_time()
            model.learn(N_ENVS * N_STEPS, reset_num_timesteps=number == 0)
            if number > 0:  # the first round warms up
                seconds[name].append(process_time() - start)

    rows: list[dict[str, Any]] = []
    print(f"{'':24s} {'steps/s':>8s} {'of PPO':>8s} {'of RecurrentPPO':>16s}")
    for name, values in seconds.items():
        size = "128" if name.endswith("128") else "64"
        row = {"model": name, "steps_per_second": args.rounds * N_ENVS * N_STEPS / sum(values), "seconds": values}
        for other in ("PPO", f"RecurrentPPO, LSTM {size}"):
            row[f"of {other.split(',')[0]}"] = sum(seconds[other]) / sum(values)
        rows.append(row)
        print(f"{name:24s} {row['steps_per_second']:8.0f} {row['of PPO']:8.2f} {row['of RecurrentPPO']:16.2f}")
    print("To reach with z 64: 0.7 of PPO, 5 times RecurrentPPO with an LSTM of the same size\n")

    save_json(args.out, {"rows": rows})
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    axes.barh([row["model"] for row in rows], [row["steps_per_second"] for row in rows])
    axes.invert_yaxis()
    axes.set(xlabel="environment steps per second, learning included", title="HalfCheetah, 4 environments, one thread")
    save_figure(args.out, figure)


if __name__ == "__main__":
    main()
