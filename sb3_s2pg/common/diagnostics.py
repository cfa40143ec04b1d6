"""Numbers about memory and training that end up in TensorBoard."""

import torch as th
from torch import nn

from sb3_s2pg.common.buffers import StatefulReplayBufferSamples

# |z'| above this counts as saturated
SATURATION = 0.99


def gradient_norm(module: nn.Module) -> float:
    """
    :param module: A module after ``backward``
    :return: Euclidean norm of the gradients of all its parameters
    """
    norms = [parameter.grad.norm() for parameter in module.parameters() if parameter.grad is not None]
    return th.stack(norms).norm().item() if norms else 0.0


def state_diagnostics(
    batch: StatefulReplayBufferSamples, internal_states_pi: th.Tensor, refresh_rate: float
) -> dict[str, float]:
    """
    :param batch: Batch of the augmented MDP
    :param internal_states_pi: z' as the current kernel samples it, shape (batch, state_dim)
    :param refresh_rate: How much of a stored z' is replaced by it
    :return: mean |z'|, mean |z' - z|, share of saturated entries, mean distance that the refresh moved the stored z'
    """
    state_dim = internal_states_pi.shape[1]
    shift = refresh_rate * (internal_states_pi - batch.next_states[:, :state_dim])
    numbers = {
        "state_abs": internal_states_pi.abs().mean(),
        "state_change": (internal_states_pi - batch.states[:, :state_dim]).abs().mean(),
        "state_saturated": (internal_states_pi.abs() > SATURATION).float().mean(),
        "state_refresh_shift": shift.abs().mean(),
    }
    return {name: value.item() for name, value in numbers.items()}
