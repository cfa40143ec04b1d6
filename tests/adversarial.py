"""Small adversarial trainings; as a command, ones that go on from saved trainers in a process of their own."""

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch as th
from envs import AnyAction
from gymnasium import spaces
from imitation.data.types import DictObs, Trajectory
from imitation.util.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_s2pg import S2PGAIRL, S2PGGAIL, S2PGPPO, S2PGSAC, S2PGTD3

EPISODE = 10
SMALL = {"net_arch": [8], "state_dim": 3}
BOX = spaces.Box(np.array([-2.0, 0.0], dtype=np.float32), np.array([2.0, 1.0], dtype=np.float32))
SETTINGS = {
    "S2PGPPO": {"n_steps": 32, "batch_size": 32, "n_epochs": 2},
    "S2PGSAC": {"buffer_size": 500, "learning_starts": 20, "batch_size": 16},
    "S2PGTD3": {"buffer_size": 500, "learning_starts": 20, "batch_size": 16},
}
CLASSES = {cls.__name__: cls for cls in (S2PGPPO, S2PGSAC, S2PGTD3, S2PGGAIL, S2PGAIRL)}


def make_venv(n_envs=2, seed=0, env="PendulumNoVel-v1"):
    venv = DummyVecEnv([lambda: gym.make(env, max_episode_steps=EPISODE)] * n_envs)
    venv.seed(seed)
    return venv


def two_actions(n_envs=2, seed=0):
    """Two actions of different range, the reward depends on them; episodes end by a time-limit."""
    venv = DummyVecEnv([lambda: AnyAction(BOX, length=EPISODE, truncate=True)] * n_envs)
    venv.seed(seed)
    return venv


def make_generator(name, venv, policy="MlpPolicy", policy_kwargs=None, **kwargs):
    kwargs = {**SETTINGS[name], "seed": 0, "device": "cpu", **kwargs}
    return CLASSES[name](policy, venv, policy_kwargs={**SMALL, **(policy_kwargs or {})}, **kwargs)


def demonstrations(venv, n_episodes=3, length=EPISODE, seed=0, terminal=True):
    """Trajectories of random actions and observations in the spaces of an environment."""
    for space in (venv.observation_space, venv.action_space):
        space.seed(seed)

    def stack(samples):
        if isinstance(samples[0], dict):
            return DictObs({key: np.stack([sample[key] for sample in samples]) for key in samples[0]})
        return np.stack(samples)

    return [
        Trajectory(
            obs=stack([venv.observation_space.sample() for _ in range(length + 1)]),
            acts=stack([venv.action_space.sample() for _ in range(length)]),
            infos=None,
            terminal=terminal,
        )
        for _ in range(n_episodes)
    ]


def make_trainer(trainer, generator, folder, venv=None, demos=None, policy="MlpPolicy", policy_kwargs=None, **kwargs):
    """A trainer with rounds of 64 steps; ``kwargs`` of the generator come as ``generator_kwargs``."""
    venv = make_venv() if venv is None else venv
    gen_algo = make_generator(generator, venv, policy, policy_kwargs, **kwargs.pop("generator_kwargs", {}))
    cls = CLASSES[trainer] if isinstance(trainer, str) else trainer
    kwargs = {"demo_batch_size": 16, "gen_train_timesteps": 64, **kwargs}
    return cls(
        demonstrations=demonstrations(venv) if demos is None else demos,
        venv=venv,
        gen_algo=gen_algo,
        custom_logger=configure(str(folder), ("log",)),
        **kwargs,
    )


def restart(trainer):
    """Environment and demonstrations start anew."""
    trainer.set_demonstrations(demonstrations(trainer.venv))
    trainer.venv.seed(7)
    trainer.gen_algo.set_env(trainer.venv_train)


def weights(trainer):
    return {
        **{f"policy.{name}": value.clone() for name, value in trainer.policy.state_dict().items()},
        **{f"discriminator.{name}": value.clone() for name, value in trainer._reward_net.state_dict().items()},
    }


def second_half(trainer):
    """:return: Weights after it"""
    restart(trainer)
    trainer.train(192)
    return weights(trainer)


if __name__ == "__main__":
    th.set_num_threads(1)
    folder = Path(sys.argv[1])
    for name in sys.argv[2:]:
        resumed = make_trainer(*name.split("_"), folder / "logs")
        resumed.resume(folder / f"{name}.zip")
        th.save(second_half(resumed), folder / f"{name}.weights")
