"""
Coupled oscillators as an inductive bias for locomotion: S2PG-SAC on HalfCheetah with hidden velocities and a privileged
critic, its kernel being a central pattern generator, beside the same with a gated recurrent unit.

    python examples/cpg.py [--seeds 1] [--steps 100000] [--jobs 2] [--out results/cpg]

Both have the settings of zoo_configs/s2pg_sac.yml and z of size 32 (16 oscillators). Seeds are 0, 1, 2, ...; the model is the
final one; evaluation is deterministic, on the same 20 episodes for all. The picture shows learning curves, and of the last
seed's oscillators phases, speeds and amplitudes beside the gait. About 20 minutes a run.
Finished runs are kept in a folder beside the results: the same call goes on where it was stopped (--fresh: from scratch).
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from common import LearningCurve, learn, newest, run_all, save_figure, save_json
from matplotlib.figure import Figure
from zoo import ZooRun, make_model, zoo_settings

from sb3_s2pg import S2PGSAC, CPGKernel
from sb3_s2pg.common.evaluation import EVALUATION_SEED

GAIT_STEPS, STEP_SECONDS = 60, 0.05
JOINTS = ("back thigh", "back shin", "back foot", "front thigh", "front shin", "front foot")


def train_and_walk(run: ZooRun) -> dict[str, Any]:
    """
    :param run: What to train
    :return: The run, its learning curve, the returns of the final model, and how it walks
    """
    th.set_num_threads(1)
    model = make_model(run)
    assert isinstance(model, S2PGSAC)
    curve = LearningCurve(run.env, run.steps // run.curve_points, run.curve_episodes)
    return {**asdict(run), **learn(model, run.steps, curve, run.n_episodes), "gait": walk(model, run.env)}


def walk(model: S2PGSAC, task: str) -> dict[str, Any]:
    """
    :param model: The model
    :param task: Id of the task
    :return: Joint angles and internal states after 10 seconds, shape (GAIT_STEPS, 6) and (GAIT_STEPS, state_dim)
    """
    env = gym.make(task)
    obs, _ = env.reset(seed=EVALUATION_SEED)
    state: Any = None
    joints, internal_states = [], []
    for _ in range(200 + GAIT_STEPS):
        action, state = model.predict(obs, state, deterministic=True)
        obs, *_ = env.step(action)
        joints.append(obs["observation"][2:8].tolist())
        internal_states.append(state[0, : model.policy.state_dim].tolist())
    env.close()
    return {"joints": joints[200:], "internal_states": internal_states[200:]}


def phase_speeds(phases: np.ndarray) -> np.ndarray:
    """
    :param phases: Phases over time, shape (time, oscillators)
    :return: How fast they turn, in Hz, shape (time - 1, oscillators)
    """
    return np.diff(np.unwrap(phases, axis=0), axis=0) / (2 * np.pi * STEP_SECONDS)


def main_frequency(signals: np.ndarray) -> float:
    """
    :param signals: Signals over time, shape (time, signals)
    :return: The frequency in Hz that is strongest in all of them together
    """
    window = np.hanning(len(signals))[:, None]
    power = np.square(np.abs(np.fft.rfft((signals - signals.mean(axis=0)) * window, axis=0))).sum(axis=1)
    return float(np.fft.rfftfreq(len(signals), STEP_SECONDS)[power.argmax()])


def last_gait(results: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    :param results: Results of all runs
    :return: Phases and amplitudes of the last run with oscillators, shape (GAIT_STEPS, oscillators), and its joint angles
    """
    gait = [result for result in results if result["label"] == "cpg"][-1]["gait"]
    states = th.tensor(gait["internal_states"])
    phases = CPGKernel(1, states.shape[1]).phases(states).numpy()
    return phases, np.hypot(*np.split(states.numpy(), 2, axis=1)), np.array(gait["joints"])


def draw(results: list[dict[str, Any]], title: str) -> Figure:
    """
    :param results: Results of all runs
    :param title: Title of the picture
    :return: Learning curves; phases, their speeds, amplitudes and joint angles of the last run with oscillators
    """
    figure = Figure(figsize=(9, 12), layout="constrained")
    curves, phase_axes, speed_axes, amplitude_axes, joint_axes = figure.subplots(5, 1)
    for number, label in enumerate(dict.fromkeys(result["label"] for result in results)):
        for result in (result for result in results if result["label"] == label):
            name = f"{label}, seed {result['seed']}"
            curves.plot(result["curve"]["steps"], result["curve"]["returns"], color=f"C{number}", label=name)
    curves.set(xlabel="environment steps", ylabel="return (deterministic)", title=title)
    curves.legend()

    phases, amplitudes, joints = last_gait(results)
    seconds = 10 + STEP_SECONDS * np.arange(GAIT_STEPS)
    speeds = phase_speeds(phases)
    # Those that what is observed turns most
    chosen = np.argsort(-speeds.std(axis=0))[:6]
    phase_axes.plot(seconds, phases[:, chosen], ".", markersize=4)
    phase_axes.set(ylabel="phase (rad)", title="The six oscillators whose speed varies most")
    speed_axes.plot(seconds[1:], speeds[:, chosen])
    speed_axes.set(ylabel="speed (Hz)")
    amplitude_axes.plot(seconds, amplitudes[:, chosen])
    amplitude_axes.set(ylabel="amplitude")
    for angles, joint in zip(joints.T, JOINTS, strict=True):
        joint_axes.plot(seconds, angles, label=joint)
    joint_axes.set(xlabel="seconds of the episode", ylabel="joint angle (rad)", title="The gait")
    joint_axes.legend(ncols=3, fontsize="small")
    return figure


def main() -> None:
    """Train what has not been trained yet, print a table, write JSON and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/cpg"), help="where to write JSON and picture")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--curve-points", type=int, default=10, help="points of the learning curves")
    parser.add_argument("--episodes", type=int, default=20, help="episodes that evaluate the final model")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--fresh", action="store_true", help="forget finished runs")
    args = parser.parse_args()

    task = newest("HalfCheetahNoVelPriv")
    settings = zoo_settings("s2pg_sac", task)
    runs = []
    for seed in range(args.seeds):
        for kernel in ("cpg", "gru"):
            with_kernel = {**settings, "policy_kwargs": {"state_kernel_class": kernel}}
            run = ZooRun(kernel, "s2pg_sac", task, seed, with_kernel, args.steps, args.curve_points, n_episodes=args.episodes)
            runs.append((f"{kernel}_seed{seed}", run))
    results = run_all(train_and_walk, runs, args.out.with_name(args.out.name + "_runs"), args.jobs, args.fresh)

    summary: dict[str, Any] = {}
    print(f"\n{'kernel':8s} {'return':>8s} {'seconds':>8s}   every seed")
    for kernel in ("cpg", "gru"):
        ours = [result for result in results if result["label"] == kernel]
        returns = [result["mean_return"] for result in ours]
        seconds = float(np.mean([result["training_cpu_seconds"] for result in ours]))
        summary[kernel] = {"mean": float(np.mean(returns)), "seeds": returns, "cpu_seconds": seconds}
        print(f"{kernel:8s} {np.mean(returns):8.0f} {seconds:8.0f}   {'  '.join(f'{value:.0f}' for value in returns)}")
    print(f"{task}, {args.steps} steps, {args.seeds} seeds")
    phases, _, joints = last_gait(results)
    speeds = phase_speeds(phases)
    joints_hz, speeds_hz = main_frequency(joints), main_frequency(speeds)
    summary["gait"] = {
        "oscillators_hz": speeds.mean(axis=0).tolist(),
        "their_speeds_vary_at_hz": speeds_hz,
        "joints_hz": joints_hz,
    }
    turning = f"its oscillators turn at {speeds.mean():.2f} Hz, their speeds vary at {speeds_hz:.1f} Hz"
    print(f"The gait of the last cpg: {joints_hz:.1f} Hz; {turning}\n")
    save_json(args.out, {"summary": summary, "results": results})
    save_figure(args.out, draw(results, f"{task}: oscillators beside a gated recurrent unit"))


if __name__ == "__main__":
    main()
