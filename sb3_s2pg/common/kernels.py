"""State kernels: the mean (and, if it wants, the scale of the noise) of kappa(z' | o, z)."""

import math

import torch as th
from torch import nn
from torch.nn import functional as F

# What a linear kernel writes at least
MIN_SHARE = 1e-6


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

    # Whether the mean lies in (-1, 1) if z does
    bounded = True

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


class GRUKernel(StateKernel):
    """
    Gated recurrent unit: ``z' = keep * z + (1 - keep) * candidate``. Its mean stays in (-1, 1).

    :param input_dim: Size of x
    :param state_dim: Size of the internal state z
    :param gated_noise: Whether to scale the noise by the share that is written, ``1 - keep``,
        so that noise does not pile up in what is being kept
    :param input_gain: Gain of the orthogonal weights from x to the candidate; the rest is initialised as by torch.
        What is observed has to stand out against the noise from the first step on
    :param max_time_constant: At initialisation the entries have time constants from 1.5 steps to this many, spread evenly
        on a log scale; None for about 2 steps, as torch initialises. For a cue that has to last L steps, several times L
        is a good choice
    :raises ValueError: if the time constant is not greater than 1.5 steps
    """

    def __init__(
        self,
        input_dim: int,
        state_dim: int,
        gated_noise: bool = True,
        input_gain: float = 1.0,
        max_time_constant: float | None = None,
    ):
        super().__init__(input_dim, state_dim)
        self.gated_noise = gated_noise
        self.cell = nn.GRUCell(input_dim, state_dim)
        # Rows of the weights: reset gate, update gate ("keep"), candidate
        nn.init.orthogonal_(self.cell.weight_ih.data[2 * state_dim :], gain=input_gain)
        if max_time_constant is not None:
            # There are two biases, and only their sum matters
            keep = slice(state_dim, 2 * state_dim)
            nn.init.zeros_(self.cell.bias_hh.data[keep])
            self.cell.bias_ih.data[keep] = keep_bias(state_dim, max_time_constant)

    def forward(self, inputs: th.Tensor, states: th.Tensor) -> tuple[th.Tensor, th.Tensor | None]:
        if not self.gated_noise:
            return self.cell(inputs, states), None
        # The cell by hand, in torch's order of gates, because it keeps the update gate to itself
        from_inputs = F.linear(inputs, self.cell.weight_ih, self.cell.bias_ih)
        from_states = F.linear(states, self.cell.weight_hh, self.cell.bias_hh)
        # One split each: slices would cost a tensor of zeros per slice in the backward pass
        parts = [2 * self.state_dim, self.state_dim]
        gates_from_inputs, candidate_from_inputs = from_inputs.split(parts, dim=1)
        gates_from_states, candidate_from_states = from_states.split(parts, dim=1)
        reset, keep = th.sigmoid(gates_from_inputs + gates_from_states).chunk(2, dim=1)
        candidate = th.tanh(th.addcmul(candidate_from_inputs, reset, candidate_from_states))
        return th.lerp(candidate, states, keep), 1 - keep

    def unroll(self, inputs: th.Tensor, states: th.Tensor) -> th.Tensor:
        weights = [self.cell.weight_ih, self.cell.weight_hh, self.cell.bias_ih, self.cell.bias_hh]
        # After the weights: biases, layers, dropout, train (cuDNN wants it for gradients), bidirectional, batch_first
        outputs, _ = th.gru(inputs, states.unsqueeze(0), weights, True, 1, 0.0, th.is_grad_enabled(), False, False)
        return outputs


class LinearKernel(StateKernel):
    """
    Gated diagonal linear recurrence: ``z' = keep * z + sqrt(1 - keep^2) * W x``, ``keep = 1 - sigmoid(V x + b)``.

    What is written is weighted such that entries that keep for long are as large as those that keep for short, so that
    layers after it can read the distant past as well as the recent one (as in linear recurrent units,
    arXiv 2303.06349). The noise is scaled in the same way. The mean is not bounded by (-1, 1): it is for S2PGPPO.

    :param input_dim: Size of x
    :param state_dim: Size of the internal state z
    :param max_time_constant: At initialisation the entries have time constants from 1.5 steps to this many, spread evenly
        on a log scale. For a cue that has to last L steps, several times L is a good choice
    :param input_gain: What is written has about this size at initialisation, for inputs of size 1
    :raises ValueError: if the time constant is not greater than 1.5 steps
    """

    bounded = False

    def __init__(self, input_dim: int, state_dim: int, max_time_constant: float = 10.0, input_gain: float = 1.0):
        super().__init__(input_dim, state_dim)
        self.linear = nn.Linear(input_dim, 2 * state_dim)
        # Rows of the weights: what is written, gate
        write_weight, _ = self.linear.weight.data.chunk(2)
        write_bias, gate_bias = self.linear.bias.data.chunk(2)
        # Orthogonal columns, and rows of about size 1 however many entries there are
        nn.init.orthogonal_(write_weight, gain=input_gain * max(1.0, math.sqrt(state_dim / input_dim)))
        nn.init.zeros_(write_bias)
        # What opens this gate is forgotten
        gate_bias.copy_(-keep_bias(state_dim, max_time_constant))

    def forward(self, inputs: th.Tensor, states: th.Tensor) -> tuple[th.Tensor, th.Tensor | None]:
        write, gate = self.linear(inputs).chunk(2, dim=1)
        leak = th.sigmoid(gate)
        # sqrt(1 - keep^2), with a gradient that is finite where the gate is closed
        share = (leak * (2 - leak) + MIN_SHARE**2).sqrt()
        # keep * z + share * W x, without a product for `keep`
        return th.addcmul(th.addcmul(states, leak, states, value=-1), share, write), share


def keep_bias(state_dim: int, max_time_constant: float) -> th.Tensor:
    """
    :param state_dim: Size of the internal state z
    :param max_time_constant: Greatest time constant, in steps
    :return: Biases b such that the share sigmoid(b) that is kept gives time constants 1 / (1 - sigmoid(b)) from the
        greatest one to 1.5 steps, spread evenly on a log scale, shape (state_dim,)
    :raises ValueError: if the greatest one is not greater than 1.5 steps
    """
    if not max_time_constant > 1.5:
        raise ValueError(f"max_time_constant={max_time_constant} must be greater than 1.5 steps")
    return th.log(th.logspace(math.log10(max_time_constant), math.log10(1.5), state_dim) - 1)


KERNELS: dict[str, type[StateKernel]] = {"gru": GRUKernel, "linear": LinearKernel}


def get_kernel_class(kernel: str | type[StateKernel]) -> type[StateKernel]:
    """
    :param kernel: Name of a kernel of this package, or a class derived from ``StateKernel``
    :return: The kernel class
    :raises ValueError: if there is no such kernel
    """
    if isinstance(kernel, str) and kernel in KERNELS:
        return KERNELS[kernel]
    if isinstance(kernel, type) and issubclass(kernel, StateKernel) and kernel is not StateKernel:
        return kernel
    raise ValueError(
        f"state_kernel_class={kernel!r} is not a state kernel: use one of {sorted(KERNELS)} or a subclass of StateKernel"
    )


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
