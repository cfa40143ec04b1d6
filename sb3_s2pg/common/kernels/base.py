"""What a state kernel is: the mean (and, if it wants, the scale of the noise) of kappa(z' | o, z)."""

import torch as th
from torch import nn


class StateKernel(nn.Module):
    """
    Base class of state kernels.

    A kernel computes the *mean* of the next internal state, which is z' at zero noise; noise and squashing
    are added outside (paper, section 2: ``kappa(z' | o, z)``). A new kernel needs a ``forward``,
    and nothing else has to be touched. For S2PGSAC and S2PGTD3 the mean has to lie in (-1, 1): what leaves it is clipped
    and gets no gradient (``train/state_saturated`` tells). A kernel that does not promise that says ``bounded = False``.

    :param input_dim: Size of x, the observation features followed by the previous action (if the policy uses it)
    :param state_dim: Size of the internal state z
    """

    # Whether the mean lies in (-1, 1) if z does; None: as the constructor is told
    bounded: bool | None = True

    def __init__(self, input_dim: int, state_dim: int):
        super().__init__()
        self.input_dim = input_dim
        self.state_dim = state_dim

    def forward(self, inputs: th.Tensor, states: th.Tensor) -> tuple[th.Tensor, th.Tensor | None]:
        """
        :param inputs: x, shape (batch, input_dim)
        :param states: z, shape (batch, state_dim)
        :return: the mean of z', shape (batch, state_dim), and a factor for the noise of the same shape
            (None: the noise is used as it is)
        """
        raise NotImplementedError()

    def initial_state(self, n: int) -> th.Tensor:
        """
        The internal state at the start of an episode. It is a constant: the replay buffer keeps no copy of it.

        :param n: Number of environments
        :return: z_0, shape (n, state_dim)
        """
        # A kernel without parameters lives on the CPU
        return th.zeros(n, self.state_dim, device=next(self.parameters(), th.empty(0)).device)

    def unroll(self, inputs: th.Tensor, states: th.Tensor) -> th.Tensor:
        """
        Apply the kernel along sequences, without noise.

        :param inputs: x over time, shape (time, batch, input_dim)
        :param states: z before the first input, shape (batch, state_dim)
        :return: z after every input, shape (time, batch, state_dim)
        """
        outputs = []
        for step_inputs in inputs:
            states, _ = self(step_inputs, states)
            outputs.append(states)
        return th.stack(outputs)


def check_kernel(kernel: StateKernel) -> None:
    """
    Try a kernel on one input.

    :param kernel: The kernel
    :raises ValueError: if what it returns does not have the right shape or is not finite
    """
    with th.no_grad():
        start = kernel.initial_state(1)
        mean, scale = kernel(th.zeros(1, kernel.input_dim, device=start.device), start)
    wanted = (1, kernel.state_dim)
    for name, value in (("initial_state", start), ("mean", mean), ("scale", scale)):
        if value is not None and (tuple(value.shape) != wanted or not th.isfinite(value).all()):
            raise ValueError(
                f"{type(kernel).__name__}: {name} has the shape {tuple(value.shape)}, values {value.flatten()[:5].tolist()}, "
                f"but (batch, state_dim) = {wanted} and finite values are needed"
            )
