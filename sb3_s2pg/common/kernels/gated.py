"""Recurrent cells as state kernels: what is kept and what is written is decided by gates (but for the plain one)."""

import math
from collections.abc import Callable
from typing import Any

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_s2pg.common.kernels.base import StateKernel

# What a linear kernel writes at least
MIN_SHARE = 1e-6
# tanh of the largest cell that a bounded LSTM holds
MAX_TANH_CELL = 0.9999


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
            spread_time_constants(self.cell, max_time_constant)

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
        return run_fused(th.gru, self.cell, inputs, states.unsqueeze(0))


class LSTMKernel(StateKernel):
    """
    Long short-term memory. z holds h in its first half and the cell c in its second: ``state_dim`` is even, and each has
    half the size. If z has to be bounded (S2PGSAC, S2PGTD3), tanh(c) stands in place of c, and c is at most 5.

    :param input_dim: Size of x
    :param state_dim: Size of the internal state z, even
    :param gated_noise: Whether to scale the noise of c by the input gate, so that noise does not pile up in what is kept;
        that of h, which is written anew at every step, by the output gate
    :param max_time_constant: At initialisation the entries of c have time constants from 1.5 steps to this many, spread
        evenly on a log scale; None for about 2 steps, as torch initialises
    :param bounded: Whether the mean has to stay in (-1, 1)
    :raises ValueError: if ``state_dim`` is odd, or the time constant not greater than 1.5 steps
    """

    bounded = None

    def __init__(
        self,
        input_dim: int,
        state_dim: int,
        gated_noise: bool = True,
        max_time_constant: float | None = None,
        bounded: bool = False,
    ):
        super().__init__(input_dim, state_dim)
        if state_dim % 2:
            raise ValueError(f"state_dim={state_dim} has to be even for an LSTM, whose z holds h and c: use {state_dim + 1}")
        self.bounded, self.gated_noise, self.size = bounded, gated_noise, state_dim // 2
        self.cell = nn.LSTMCell(input_dim, self.size)
        if max_time_constant is not None:
            spread_time_constants(self.cell, max_time_constant)

    def forward(self, inputs: th.Tensor, states: th.Tensor) -> tuple[th.Tensor, th.Tensor | None]:
        hidden, cell = states.chunk(2, dim=1)
        if self.bounded:
            cell = th.atanh(cell.clamp(-MAX_TANH_CELL, MAX_TANH_CELL))
        if self.gated_noise:
            # The cell by hand, because it keeps its gates to itself
            from_inputs = F.linear(inputs, self.cell.weight_ih, self.cell.bias_ih)
            gates = from_inputs + F.linear(hidden, self.cell.weight_hh, self.cell.bias_hh)
            write, keep, candidate, output = gates.chunk(4, dim=1)
            write, output = th.sigmoid(write), th.sigmoid(output)
            cell = th.addcmul(th.sigmoid(keep) * cell, write, th.tanh(candidate))
            squashed = th.tanh(cell)
            hidden, scale = output * squashed, th.cat([output, write], dim=1)
        else:
            hidden, cell = self.cell(inputs, (hidden.contiguous(), cell.contiguous()))
            squashed, scale = th.tanh(cell) if self.bounded else cell, None
        return th.cat([hidden, squashed if self.bounded else cell], dim=1), scale

    def unroll(self, inputs: th.Tensor, states: th.Tensor) -> th.Tensor:
        if not self.bounded:
            return super().unroll(inputs, states)
        # torch's fused cell keeps c to itself. But h = output gate * tanh(c), and the gate needs nothing but x and h
        first_hidden, squashed = states.chunk(2, dim=1)
        start = (first_hidden.unsqueeze(0), th.atanh(squashed.clamp(-MAX_TANH_CELL, MAX_TANH_CELL)).unsqueeze(0))
        hidden = run_fused(th.lstm, self.cell, inputs, start)
        weight_ih, weight_hh, bias_ih, bias_hh = (weight[3 * self.size :] for weight in weights_of(self.cell))
        before = th.cat([first_hidden.unsqueeze(0), hidden[:-1]])
        squashed = hidden / th.sigmoid(F.linear(inputs, weight_ih, bias_ih) + F.linear(before, weight_hh, bias_hh))
        if not squashed.detach().abs().max() <= MAX_TANH_CELL:
            # Step by step c would have been cut off, or a gate was closed altogether
            return super().unroll(inputs, states)
        return th.cat([hidden, squashed], dim=2)


class RNNKernel(StateKernel):
    """
    Elman's recurrent network: ``z' = tanh(W x + U z + b)``. All of z is written anew at every step.

    :param input_dim: Size of x
    :param state_dim: Size of the internal state z
    :param input_gain: Gain of the orthogonal weights from x
    :param recurrent_gain: Gain of the orthogonal weights from z; with 1 an input is turned, but does not fade at once
    """

    def __init__(self, input_dim: int, state_dim: int, input_gain: float = 1.0, recurrent_gain: float = 1.0):
        super().__init__(input_dim, state_dim)
        self.cell = nn.RNNCell(input_dim, state_dim)
        nn.init.orthogonal_(self.cell.weight_ih, gain=input_gain)
        nn.init.orthogonal_(self.cell.weight_hh, gain=recurrent_gain)

    def forward(self, inputs: th.Tensor, states: th.Tensor) -> tuple[th.Tensor, th.Tensor | None]:
        return self.cell(inputs, states), None

    def unroll(self, inputs: th.Tensor, states: th.Tensor) -> th.Tensor:
        return run_fused(th.rnn_tanh, self.cell, inputs, states.unsqueeze(0))


class LinearKernel(StateKernel):
    """
    Gated diagonal linear recurrence: ``z' = keep * z + sqrt(1 - keep^2) * W x``, ``keep = 1 - sigmoid(V x + b)``.

    What is written is weighted such that entries that keep for long are as large as those that keep for short, so that
    layers after it can read the distant past as well as the recent one (as in linear recurrent units,
    arXiv 2303.06349). The noise is scaled in the same way. If z has to be bounded (S2PGSAC, S2PGTD3) it is
    ``z' = keep * z + (1 - keep) * tanh(W x)`` instead, in (-1, 1).

    :param input_dim: Size of x
    :param state_dim: Size of the internal state z
    :param max_time_constant: At initialisation the entries have time constants from 1.5 steps to this many, spread evenly
        on a log scale. For a cue that has to last L steps, several times L is a good choice
    :param input_gain: What is written has about this size at initialisation, for inputs of size 1
    :param bounded: Whether the mean has to stay in (-1, 1)
    :raises ValueError: if the time constant is not greater than 1.5 steps
    """

    bounded = None

    def __init__(
        self,
        input_dim: int,
        state_dim: int,
        max_time_constant: float = 10.0,
        input_gain: float = 1.0,
        bounded: bool = False,
    ):
        super().__init__(input_dim, state_dim)
        self.bounded = bounded
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
        if self.bounded:
            return th.lerp(states, th.tanh(write), leak), leak
        # sqrt(1 - keep^2), with a gradient that is finite where the gate is closed
        share = (leak * (2 - leak) + MIN_SHARE**2).sqrt()
        # keep * z + share * W x, without a product for `keep`
        return th.addcmul(th.addcmul(states, leak, states, value=-1), share, write), share


def weights_of(cell: nn.RNNCellBase) -> list[th.Tensor]:
    """
    :param cell: A cell of torch
    :return: Its weights, in the order in which torch's functions take them
    """
    return [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]


def run_fused(
    function: Callable[..., tuple[th.Tensor, ...]], cell: nn.RNNCellBase, inputs: th.Tensor, start: Any
) -> th.Tensor:
    """
    Run a cell along whole sequences without a loop over time.

    :param function: Torch's function for it: ``th.gru``, ``th.rnn_tanh`` or ``th.lstm``
    :param cell: The cell
    :param inputs: x over time, shape (time, batch, input_dim)
    :param start: h (and c) before the first input, shape (1, batch, size)
    :return: h after every input, shape (time, batch, size)
    """
    # After the weights: biases, layers, dropout, train (cuDNN wants it for gradients), bidirectional, batch_first
    return function(inputs, start, weights_of(cell), True, 1, 0.0, th.is_grad_enabled(), False, False)[0]


def spread_time_constants(cell: nn.GRUCell | nn.LSTMCell, max_time_constant: float) -> None:
    """
    :param cell: Cell whose second gate is the share that is kept (reset, update, candidate; input, forget, candidate, output)
    :param max_time_constant: Greatest time constant, in steps
    :raises ValueError: if it is not greater than 1.5 steps
    """
    keep = slice(cell.hidden_size, 2 * cell.hidden_size)
    # There are two biases, and only their sum matters
    nn.init.zeros_(cell.bias_hh.data[keep])
    cell.bias_ih.data[keep] = keep_bias(cell.hidden_size, max_time_constant)


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
