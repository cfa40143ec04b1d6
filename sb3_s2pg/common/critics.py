"""Critics of the augmented MDP: Q(s, z, a, z')."""

import itertools
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
    :param fan_in: Number of inputs that the initialisation reckons with, if more than one layer feeds the output
    """

    def __init__(self, n_members: int, in_features: int, out_features: int, fan_in: int | None = None):
        super().__init__()
        # As nn.Linear initialises its weights and biases
        bound = 1 / math.sqrt(fan_in or in_features)
        self.weight = nn.Parameter(th.empty(n_members, in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(th.empty(n_members, 1, out_features).uniform_(-bound, bound))

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: Shape (n, batch, in_features), for the first n networks
        :return: Shape (n, batch, out_features)
        """
        weight, bias = first(self.weight, len(inputs)), first(self.bias, len(inputs))
        if weight.shape[2] == 1:
            # Twice as fast as a batched product with a single column
            return (inputs * weight.transpose(1, 2)).sum(dim=-1, keepdim=True) + bias
        return th.baddbmm(bias, inputs, weight)


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

        # The first layer is split: the actor's loss needs gradients with respect to (a, z'), not to the rest
        context_dim = features_dim + states_dim + history_dim
        action_dim = get_action_dim(action_space) + state_dim
        widths = [*net_arch, 1]
        self.context_layer = EnsembleLinear(n_critics, context_dim, widths[0], fan_in=context_dim + action_dim)
        bound = 1 / math.sqrt(context_dim + action_dim)
        self.action_weight = nn.Parameter(th.empty(n_critics, action_dim, widths[0]).uniform_(-bound, bound))
        layers: list[nn.Module] = []
        for in_features, out_features in itertools.pairwise(widths):
            layers += [activation_fn(), EnsembleLinear(n_critics, in_features, out_features)]
        self.q_networks = nn.Sequential(*layers)
        make_relu_inplace(self.q_networks)

    def forward(
        self,
        obs: PyTorchObs,
        states: th.Tensor,
        actions: th.Tensor,
        next_internal_states: th.Tensor,
        history: th.Tensor | None = None,
        n_critics: int | None = None,
    ) -> th.Tensor:
        """
        :param obs: The critic's observations
        :param states: (z, previous action), shape (batch, state_dim + action_dim)
        :param actions: a in [-1, 1], shape (batch, action_dim)
        :param next_internal_states: z', shape (batch, state_dim)
        :param history: Flattened critic history, shape (batch, history_dim)
        :param n_critics: Number of networks to evaluate, the first ones; None for all
        :return: Q-values, shape (n_critics, batch, 1)
        """
        with th.set_grad_enabled(th.is_grad_enabled() and not self.share_features_extractor):
            features = self.extract_features(obs, self.features_extractor)
        context = [features, states[:, : self.states_dim]]
        if history is not None:
            context.append(history)
        n_critics = n_critics or self.n_critics
        augmented_actions = th.cat([actions, next_internal_states], dim=1).expand(n_critics, -1, -1)
        hidden = self.context_layer(th.cat(context, dim=1).expand(n_critics, -1, -1))
        hidden = th.baddbmm(hidden, augmented_actions, first(self.action_weight, n_critics))
        return self.q_networks(hidden)


def first(parameter: th.Tensor, n: int) -> th.Tensor:
    """
    :param parameter: Parameter of several networks, one row each
    :param n: Number of networks
    :return: That of the first ones. A slice of all would cost a copy of the whole gradient
    """
    return parameter if n == len(parameter) else parameter[:n]


def make_relu_inplace(module: nn.Module) -> None:
    """
    Let the ReLUs between linear layers overwrite their input, which nobody needs: less memory traffic, same numbers.

    :param module: Network of linear layers and activations
    """
    for layer in module.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = True
