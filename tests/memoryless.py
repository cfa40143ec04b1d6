"""To compare with SB3's algorithms: our networks in their layout, and their weights and transitions for ours."""

import numpy as np
import torch as th


def linear_layers(critic, i):
    """
    :return: Weights and biases of network ``i`` of our critic, laid out as ``nn.Linear`` does, views where possible
    """
    first = th.cat([critic.context_layer.weight[i], critic.action_weight[i]]).T
    rest = [layer for layer in critic.q_networks if hasattr(layer, "weight")]
    return [(first, critic.context_layer.bias[i, 0])] + [(layer.weight[i].T, layer.bias[i, 0]) for layer in rest]


def linear_layers_of_sb3(critic, i):
    """:return: The same, of a critic of SB3"""
    return [(layer.weight, layer.bias) for layer in critic.q_networks[i] if isinstance(layer, th.nn.Linear)]


def copy_weights(theirs, ours):
    """
    :param theirs: SB3's SAC or TD3
    :param ours: The algorithm of this package that gets its weights, without memory
    """
    for name in ("actor", "actor_target"):
        if hasattr(theirs, name):
            getattr(ours, name).load_state_dict(getattr(theirs, name).state_dict())
    for source, target in ((theirs.critic, ours.critic), (theirs.critic_target, ours.critic_target)):
        n_features = target.context_layer.weight.shape[1]
        layers = [layer for layer in target.q_networks if hasattr(layer, "weight")]
        with th.no_grad():
            for i in range(2):
                (weight, bias), *rest = linear_layers_of_sb3(source, i)
                target.context_layer.weight[i] = weight.T[:n_features]
                target.action_weight[i] = weight.T[n_features:]
                target.context_layer.bias[i] = bias
                for layer, (weight, bias) in zip(layers, rest, strict=True):
                    layer.weight[i], layer.bias[i] = weight.T, bias


def copy_transitions(theirs, ours, n):
    """
    :param theirs: Replay buffer of SB3
    :param ours: Stateful replay buffer of a policy without memory that gets its first transitions
    :param n: Their number
    """
    names = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
    for obs, next_obs, action, reward, done, timeout in zip(*(getattr(theirs, name)[:n] for name in names), strict=True):
        info = {"next_internal_state": np.zeros(0), "episode_start": True, "TimeLimit.truncated": bool(timeout[0])}
        ours.add(obs, next_obs, action, reward, done, [info])
