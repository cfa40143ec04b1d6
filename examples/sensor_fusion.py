"""
Without privileged sensors: what the critic may see on hidden-velocity Pendulum where nobody can measure velocity exactly,
not even in training. S2PG-SAC's critic sees the true velocity, the last observations and actions (the default), a velocity
that a Kalman filter has made of noisy sensors, or none of them.

    python examples/sensor_fusion.py [--seeds 3] [--steps 20000] [--jobs 2] [--out results/sensor_fusion]

The sensors are an encoder (angle, noise of 0.05 rad) and a gyroscope (angular velocity, noise of 1 rad/s), there in training
only; the policy sees the angle alone, without noise, in all four. Settings are those of zoo_configs/s2pg_sac.yml. Seeds are
0, 1, 2, ...; the model is the final one; evaluation is deterministic, on the same 20 episodes for all. Five minutes a run.
Finished runs are kept in a folder beside the results: the same call goes on where it was stopped (--fresh: from scratch).
"""

import argparse
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from common import plot_learning_curves, run_all, save_figure, save_json
from gymnasium import spaces
from scipy.linalg import solve_discrete_are
from zoo import ZooRun, train_zoo, zoo_settings

TIME_STEP = 0.05  # seconds, of Pendulum
ENCODER_STD, GYROSCOPE_STD = 0.05, 1.0  # rad, rad/s
ACCELERATION_STD = 10.0  # rad/s^2, of what the filter knows nothing about: gravity and torque


class FusedVelocity(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """
    Pendulum whose ``privileged`` key holds what a Kalman filter makes of noisy sensors: cos and sin of the angle, and the
    angular velocity. The filter's model is a constant velocity, its gain the one that it settles at. ``observation`` is the
    true cos and sin, and 0 in place of the velocity, as in ``PendulumNoVelPriv-v1``.

    :param env: Pendulum
    """

    def __init__(self, env: gym.Env):
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        space = env.observation_space
        assert isinstance(space, spaces.Box)
        # The filter may believe in a velocity that the pendulum does not have
        privileged = spaces.Box(-np.inf, np.inf, space.shape, dtype=np.float32)
        self.observation_space = spaces.Dict({"observation": space, "privileged": privileged})
        self.transition = np.array([[1.0, TIME_STEP], [0.0, 1.0]])
        disturbance = ACCELERATION_STD * np.array([0.5 * TIME_STEP**2, TIME_STEP])
        measurement = np.diag([ENCODER_STD**2, GYROSCOPE_STD**2])
        covariance = solve_discrete_are(self.transition.T, np.eye(2), np.outer(disturbance, disturbance), measurement)
        self.gain = covariance @ np.linalg.inv(covariance + measurement)

    def measure(self, observation: np.ndarray) -> np.ndarray:
        """
        :param observation: The full observation, which holds the true velocity
        :return: Noisy angle and angular velocity
        """
        angle = np.arctan2(observation[1], observation[0])
        return np.array([angle, observation[2]]) + self.np_random.normal(0.0, (ENCODER_STD, GYROSCOPE_STD))

    def seen(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        """
        :param observation: The full observation
        :return: What policy and critic see
        """
        angle, velocity = self.estimate
        return {
            "observation": (observation * [1, 1, 0]).astype(np.float32),
            "privileged": np.array([np.cos(angle), np.sin(angle), velocity], dtype=np.float32),
        }

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self.estimate = self.measure(observation)
        return self.seen(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        predicted = self.transition @ self.estimate
        innovation = self.measure(observation) - predicted
        # An angle is the same after a turn
        innovation[0] = (innovation[0] + np.pi) % (2 * np.pi) - np.pi
        self.estimate = predicted + self.gain @ innovation
        return self.seen(observation), reward, terminated, truncated, info


def make_fused_pendulum(**kwargs: Any) -> gym.Env:
    """
    :param kwargs: Arguments of Pendulum
    :return: The task
    """
    return FusedVelocity(gym.make("Pendulum-v1", **kwargs).unwrapped)


# Every process that imports this file has the task
gym.register("PendulumFused-v1", entry_point=make_fused_pendulum, max_episode_steps=200)

# What the critic sees, task, entry of zoo_configs/s2pg_sac.yml and what differs from it
VARIANTS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("true velocity", "PendulumNoVelPriv-v1", "PendulumNoVelPriv-v1", {}),
    ("fused velocity", "PendulumFused-v1", "PendulumNoVelPriv-v1", {}),
    ("history", "PendulumNoVel-v1", "PendulumNoVel-v1", {}),
    ("nothing more", "PendulumNoVel-v1", "PendulumNoVel-v1", {"critic_history": 0}),
]


def filter_error(n_steps: int = 2000) -> float:
    """
    :param n_steps: Number of steps, with random torque
    :return: Root mean square error of the filter's velocity in rad/s
    """
    env = gym.make("PendulumFused-v1", max_episode_steps=n_steps + 1)
    env.reset(seed=0)
    env.action_space.seed(0)
    errors = []
    for _ in range(n_steps):
        observation, *_ = env.step(env.action_space.sample())
        errors.append(observation["privileged"][2] - env.unwrapped.state[1])  # type: ignore[attr-defined]
    env.close()
    return float(np.sqrt(np.mean(np.square(errors))))


def main() -> None:
    """Train what has not been trained yet, print a table, write JSON and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/sensor_fusion"), help="where to write JSON and picture")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--fresh", action="store_true", help="forget finished runs")
    args = parser.parse_args()

    runs = []
    for seed in range(args.seeds):
        for label, task, entry, changes in VARIANTS:
            settings = {**zoo_settings("s2pg_sac", entry), **changes}
            runs.append(
                (f"{label.replace(' ', '_')}_seed{seed}", ZooRun(label, "s2pg_sac", task, seed, settings, args.steps, 20))
            )
    results = run_all(train_zoo, runs, args.out.with_name(args.out.name + "_runs"), args.jobs, args.fresh)
    results.sort(key=lambda result: [label for label, *_ in VARIANTS].index(result["label"]))

    print(f"\n{'the critic sees':16s} {'mean':>8s}   every seed")
    summary: dict[str, Any] = {}
    for label, *_ in VARIANTS:
        returns = [result["mean_return"] for result in results if result["label"] == label]
        summary[label] = {"mean": float(np.mean(returns)), "seeds": returns}
        print(f"{label:16s} {np.mean(returns):8.1f}   " + "  ".join(f"{value:.1f}" for value in returns))
    error = filter_error()
    print(f"PendulumNoVel-v1, {args.steps} steps, {args.seeds} seeds; the filter's velocity is {error:.2f} rad/s off\n")
    save_json(args.out, {"summary": summary, "filter_error": error, "results": results})
    save_figure(args.out, plot_learning_curves(results, "Hidden-velocity Pendulum: what the critic sees"))


if __name__ == "__main__":
    main()
