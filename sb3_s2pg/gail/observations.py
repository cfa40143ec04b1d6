"""Dict observations for ``imitation``, which knows arrays only, and discriminators that see a part of the observation."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from imitation.data.types import DictObs
from imitation.rewards.reward_nets import PredictProcessedWrapper, RewardNet, RewardNetWrapper
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_s2pg.common.observations import ObservationSubset


class FlatLayout:
    """
    Where the keys of a Dict observation lie in a one-dimensional Box.

    :param space: Dict of Boxes
    :raises ValueError: if there is something else in it
    """

    def __init__(self, space: spaces.Dict):
        others = [key for key, part in space.spaces.items() if not isinstance(part, spaces.Box)]
        if others:
            raise ValueError(
                f"The observation has keys that are no Box, {others}, which the discriminator cannot read: "
                "encode them as Boxes (one-hot), or leave them out (gymnasium.wrappers.FilterObservation)"
            )
        boxes: dict[str, spaces.Box] = dict(space.spaces)  # type: ignore[arg-type]
        self.dict_space = space
        # One that holds all of them without loss
        dtype = np.result_type(np.float32, *(box.dtype for box in boxes.values()))
        low, high = (
            np.concatenate([np.asarray(getattr(box, bound), dtype=dtype).ravel() for box in boxes.values()])
            for bound in ("low", "high")
        )
        self.flat_space = spaces.Box(low, high, dtype=dtype.type)
        ends = np.cumsum([int(np.prod(box.shape)) for box in boxes.values()])
        self.slices = {key: slice(start, end) for key, start, end in zip(boxes, [0, *ends[:-1]], ends, strict=True)}
        self.boxes = boxes

    def flatten(self, obs: dict[str, np.ndarray]) -> np.ndarray:
        """
        :param obs: Dict of arrays, with any number of leading dimensions
        :return: One array, shape (..., total size)
        """
        parts = [
            np.asarray(obs[key]).reshape((*np.shape(obs[key])[: np.ndim(obs[key]) - len(box.shape)], -1))
            for key, box in self.boxes.items()
        ]
        return np.concatenate(parts, axis=-1, dtype=self.flat_space.dtype)

    def unflatten(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """
        :param flat: What ``flatten`` returned
        :return: What it was given
        """
        return {
            key: flat[..., self.slices[key]].reshape((*flat.shape[:-1], *box.shape)).astype(box.dtype)
            for key, box in self.boxes.items()
        }

    def indices(self, keys: Sequence[str]) -> list[int]:
        """
        :param keys: Keys of the Dict
        :return: Where they lie in the flat observation
        """
        return [index for key in keys for index in range(self.slices[key].start, self.slices[key].stop)]

    def flatten_demonstrations(self, demonstrations: Any) -> Any:
        """
        :param demonstrations: Trajectories or transitions with Dict observations
        :return: The same with flat ones; anything else as it is
        """
        if dataclasses.is_dataclass(demonstrations):
            flat = {
                name: self.flatten(value.unwrap())
                for name in ("obs", "next_obs")
                if isinstance(value := getattr(demonstrations, name, None), DictObs)
            }
            return dataclasses.replace(demonstrations, **flat)  # type: ignore[type-var]
        return [self.flatten_demonstrations(trajectory) for trajectory in demonstrations]


class _MapObservations(VecEnvWrapper):
    """
    Observations in another form, terminal ones too.

    :param venv: The environment
    :param layout: Both forms
    """

    def __init__(self, venv: VecEnv, layout: FlatLayout, observation_space: spaces.Space):
        super().__init__(venv, observation_space=observation_space)
        self.layout = layout

    def _map(self, obs: Any) -> Any:
        raise NotImplementedError()

    def reset(self) -> VecEnvObs:
        return self._map(self.venv.reset())

    def step_wait(self) -> VecEnvStepReturn:
        obs, rewards, dones, infos = self.venv.step_wait()
        # New dicts where something changes: wrappers below have kept these
        infos = [
            {**info, "terminal_observation": self._map(info["terminal_observation"])} if done else info
            for info, done in zip(infos, dones, strict=True)
        ]
        return self._map(obs), rewards, dones, infos


class FlatObservations(_MapObservations):
    """A Dict observation as a one-dimensional Box: what wrappers of ``imitation`` see."""

    def __init__(self, venv: VecEnv, layout: FlatLayout):
        super().__init__(venv, layout, layout.flat_space)

    def _map(self, obs: Any) -> Any:
        return self.layout.flatten(obs)


class DictObservations(_MapObservations):
    """The inverse of ``FlatObservations``: what the generator sees."""

    def __init__(self, venv: VecEnv, layout: FlatLayout):
        super().__init__(venv, layout, layout.dict_space)

    def _map(self, obs: Any) -> Any:
        return self.layout.unflatten(obs)

    def __getattr__(self, name: str) -> Any:
        if name == "reward_fn":
            # Only where a wrapper below has one
            reward_fn = super().__getattr__(name)
            flatten = self.layout.flatten
            return lambda obs, acts, next_obs, dones: reward_fn(flatten(obs), acts, flatten(next_obs), dones)
        return super().__getattr__(name)


class SubsetRewardNet(RewardNet):
    """
    A reward net that sees a part of the observation. GAIL calls ``forward`` of the net that it is given and nothing else,
    so this is where the part has to be taken.

    :param net: Reward net for the part
    :param observation_space: The full observation space
    :param subset: Which part of it the net sees
    :raises ValueError: if something that the net does outside of ``forward`` would be lost
    """

    def __init__(self, net: RewardNet, observation_space: spaces.Space, subset: ObservationSubset):
        super().__init__(observation_space, net.action_space, net.normalize_images)
        if isinstance(net, PredictProcessedWrapper):
            raise ValueError(
                f"reward_net={type(net).__name__} changes predict_processed, which is not called where "
                "discriminator_observation selects a part: leave the wrapper out"
            )
        self.net = net
        self.subset = subset

    def forward(self, state: th.Tensor, action: th.Tensor, next_state: th.Tensor, done: th.Tensor) -> th.Tensor:
        """:return: Output of the net, shape (batch,)"""
        return self.net(self.subset(state), action, self.subset(next_state), done)

    def without_wrappers(self) -> "SubsetRewardNet":
        """:return: The same without what is wrapped around the net, such as shaping"""
        net = self.net
        while isinstance(net, RewardNetWrapper):
            net = net.base
        return SubsetRewardNet(net, self.observation_space, self.subset)
