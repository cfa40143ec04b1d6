"""Critics of the augmented MDP: Q(s, z, a, z')."""

import math

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn


class EnsembleLinear(nn.Module):
    """
    The same linear layer for several networks at once: one batched product instead of one product each.

    :param n_members: Number of networks
    :param in_features: Size of the input
    :param out_features: Size of the output
    """

    def __init__(self, n_members: int, in_features: int, out_features: int):
        super().__init__()
        # As nn.Linear initialises its weights and biases
        bound = 1 / math.sqrt(in_features) if in_features > 0 else 0
        self.weight = nn.Parameter(th.empty(n_members, in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(th.empty(n_members, 1, out_features).uniform_(-bound, bound))

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: Shape (n_members, batch, in_features)
        :return: Shape (n_members, batch, out_features)
        """
        return th.baddbmm(self.bias, inputs, self.weight)


class StatefulCritic(BaseModel):
    """
    Critic networks Q(s, z, a, z'[, previous action][, critic history]), evaluated together.

    :param observation_space: What the critic sees of the observation
    :param action_space: Action space
    :param net_arch: Hidden layers
    :param features_extractor: Network to extract features
    :param features_dim: Number of features
    :param state_dim: Size of the internal state z
    :param states_dim: Size of what the critic sees of (z, previous action), z first
    :param history_dim: Size of the flattened critic history
    :param activation_fn: Activation function
    :param normalize_images: Whether to divide images by 255
    :param n_critics: Number of critic networks
    :param share_features_extractor: Whether the features extractor is the actor's
        (then the critic's loss does not train it, as in SB3)
    """

    features_extractor: BaseFeaturesExtractor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        state_dim: int,
        states_dim: int,
        history_dim: int = 0,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        n_critics: int = 2,
        share_features_extractor: bool = False,
    ):
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
        )
        self.share_features_extractor = share_features_extractor
        self.n_critics = n_critics
        self.states_dim = states_dim

        widths = [features_dim + states_dim + history_dim + get_action_dim(action_space) + state_dim, *net_arch]
        layers: list[nn.Module] = []
        for in_features, out_features in zip(widths[:-1], widths[1:], strict=True):
            layers += [EnsembleLinear(n_critics, in_features, out_features), activation_fn()]
        self.q_networks = nn.Sequential(*layers, EnsembleLinear(n_critics, widths[-1], 1))

    def forward(
        self,
        obs: PyTorchObs,
        states: th.Tensor,
        actions: th.Tensor,
        next_internal_states: th.Tensor,
        history: th.Tensor | None = None,
    ) -> th.Tensor:
        """
        :param obs: The critic's observations
        :param states: (z, previous action), shape (batch, state_dim + action_dim)
        :param actions: a in [-1, 1], shape (batch, action_dim)
        :param next_internal_states: z', shape (batch, state_dim)
        :param history: Flattened critic history, shape (batch, history_dim)
        :return: Q-values, shape (n_critics, batch, 1)
        """
        with th.set_grad_enabled(th.is_grad_enabled() and not self.share_features_extractor):
            features = self.extract_features(obs, self.features_extractor)
        inputs = [features, states[:, : self.states_dim], actions, next_internal_states]
        if history is not None:
            inputs.append(history)
        augmented = th.cat(inputs, dim=1)
        return self.q_networks(augmented.expand(self.n_critics, *augmented.shape))
