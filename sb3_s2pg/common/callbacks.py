"""Callbacks that a user can add."""

from typing import Any

import gymnasium as gym
import numpy as np
from matplotlib.figure import Figure
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure as LoggedFigure
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization, unwrap_vec_normalize


class InternalStateCallback(BaseCallback):
    """
    Put a picture of an evaluation episode's internal states over time into TensorBoard (tab "Images").

    :param eval_env: Environment for the evaluation episode, wrapped as the training environment is
    :param eval_freq: Number of calls of the callback (steps per environment) between two pictures
    :param deterministic: Whether to use the mean of action and next internal state
    :param verbose: Verbosity level
    :raises ValueError: if ``eval_freq`` is not positive; at the start of training, if the policy has no internal state
        or only the training environment is normalized
    """

    def __init__(self, eval_env: gym.Env | VecEnv, eval_freq: int = 5000, deterministic: bool = True, verbose: int = 0):
        super().__init__(verbose)
        if eval_freq <= 0:
            raise ValueError(f"eval_freq={eval_freq} must be positive")
        # Wrapped as SB3 wraps environments (images, for instance)
        self.eval_env = BaseAlgorithm._wrap_env(eval_env)
        self.eval_freq = eval_freq
        self.deterministic = deterministic

    def _init_callback(self) -> None:
        if getattr(self.model.policy, "state_dim", 0) == 0:
            raise ValueError("InternalStateCallback: the policy has no internal state to draw")
        if self.model.get_vec_normalize_env() is not None and unwrap_vec_normalize(self.eval_env) is None:
            raise ValueError("InternalStateCallback: wrap eval_env in VecNormalize, as the training environment is")

    def _on_step(self) -> bool:
        if self.n_calls % self.eval_freq == 0:
            if self.model.get_vec_normalize_env() is not None:
                sync_envs_normalization(self.training_env, self.eval_env)
            states, actions, rewards = record_episode(self.model, self.eval_env, self.deterministic)
            figure = plot_internal_states(states, actions, title=f"step {self.num_timesteps}, return {rewards.sum():.1f}")
            exclude = ("stdout", "log", "json", "csv")
            self.logger.record("eval/internal_states", LoggedFigure(figure, close=True), exclude=exclude)
            self.logger.dump(self.num_timesteps)
        return True


def record_episode(model: Any, env: VecEnv, deterministic: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Run one episode and write down what the policy remembers.

    :param model: Model or policy with an internal state
    :param env: Environment; of several ones the first is recorded
    :param deterministic: Whether to use the mean of action and next internal state
    :return: internal states z' after every step, shape (steps, state_dim), executed actions, shape (steps, action features),
        and rewards, shape (steps,)
    """
    state_dim = getattr(model, "policy", model).state_dim
    states, rewards = [], []
    obs, state, done = env.reset(), None, False
    while not done:
        action, state = model.predict(obs, state=state, deterministic=deterministic)
        obs, reward, dones, _ = env.step(action)
        states.append(state[0])
        rewards.append(reward[0])
        done = bool(dones[0])
    recorded = np.array(states)
    return recorded[:, :state_dim], recorded[:, state_dim:], np.array(rewards)


def plot_internal_states(states: np.ndarray, actions: np.ndarray, title: str = "") -> Figure:
    """
    :param states: Internal states over time, shape (steps, state_dim)
    :param actions: Executed actions over time, shape (steps, action features)
    :param title: Title of the picture
    :return: A picture of both over time
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1]})
    # S2PGPPO's internal states and unbounded actions may be larger than 1
    limit = max(1.0, float(np.abs(states).max(initial=0.0)))
    image = upper.imshow(states.T, aspect="auto", interpolation="nearest", cmap="RdBu", vmin=-limit, vmax=limit)
    figure.colorbar(image, ax=upper, label="z")
    upper.set(ylabel="entry of the internal state", title=title)
    lower.plot(actions)
    action_limit = 1.1 * max(1.0, float(np.abs(actions).max(initial=0.0)))
    lower.set(xlabel="step of the episode", ylabel="action", ylim=(-action_limit, action_limit))
    return figure
