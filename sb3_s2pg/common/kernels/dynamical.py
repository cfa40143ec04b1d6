"""State kernels that are dynamical systems in continuous time, and what drives them."""

import copy
import math
from collections.abc import Callable

import torch as th
from torch import nn

from sb3_s2pg.common.kernels.base import StateKernel


class OUKernel(StateKernel):
    """
    Ornstein-Uhlenbeck process around a mean that depends on what is seen (paper, Experiment 2):
    ``z' = z + theta (m(x, z) - z) dt + sigma sqrt(dt) eps``, ``m = tanh(W [x, z] + b)``. sigma is the std of the state noise,
    sqrt(dt) its scale. z stays in (-1, 1) without noise.

    :param input_dim: Size of x
    :param state_dim: Size of the internal state z
    :param theta: Rate at which z returns to its mean, per unit of time; what is seen fades within 1 / (theta dt) steps
    :param dt: Length of a step, in the same unit of time
    :raises ValueError: if ``theta`` or ``dt`` are not positive, or theta dt is greater than 1 (z would overshoot)
    """

    def __init__(self, input_dim: int, state_dim: int, theta: float = 1.0, dt: float = 0.2):
        super().__init__(input_dim, state_dim)
        check_positive(theta=theta, dt=dt)
        if theta * dt > 1:
            raise ValueError(f"theta={theta} times dt={dt} is greater than 1: z would overshoot its mean, use a smaller dt")
        self.theta, self.dt = theta, dt
        self.mean = nn.Linear(input_dim + state_dim, state_dim)
        nn.init.orthogonal_(self.mean.weight)

    def forward(self, inputs: th.Tensor, states: th.Tensor) -> tuple[th.Tensor, th.Tensor | None]:
        mean = th.tanh(self.mean(th.cat([inputs, states], dim=1)))
        return th.lerp(states, mean, self.theta * self.dt), th.full_like(states, math.sqrt(self.dt))


class ODEKernel(StateKernel):
    """
    z follows a differential equation ``dz/dt = f(z, x)`` for a step of length dt, x being constant meanwhile: integrated with
    the classical Runge-Kutta method of fourth order.

    :param input_dim: Size of x
    :param state_dim: Size of the internal state z
    :param function: f, a module that takes z, shape (batch, state_dim), and x, shape (batch, input_dim), and returns dz/dt,
        shape (batch, state_dim); a class is constructed with (input_dim, state_dim). S2PGSAC and S2PGTD3 clip a z that it
        leads out of (-1, 1).
        None for ``(tanh(W [x, z] + b) - z) / tau`` with time constants that are learned, starting
        from dt to ``max_time_constant`` steps, spread evenly on a log scale; z stays in (-1, 1) then
    :param dt: Length of a step, in units of time
    :param n_substeps: Steps of integration per step
    :param max_time_constant: Of the default f, in steps
    :raises ValueError: if ``dt`` is not positive, there is no step, the time constant is smaller than 1 step, or f returns
        something of another shape
    """

    def __init__(
        self,
        input_dim: int,
        state_dim: int,
        function: nn.Module | Callable[[int, int], nn.Module] | None = None,
        dt: float = 1.0,
        n_substeps: int = 1,
        max_time_constant: float = 10.0,
    ):
        super().__init__(input_dim, state_dim)
        check_positive(dt=dt, n_substeps=n_substeps)
        if n_substeps != int(n_substeps):
            raise ValueError(f"n_substeps={n_substeps} must be an integer")
        self.dt, self.n_substeps = dt, int(n_substeps)
        if function is None:
            function = LeakyUnits(input_dim, state_dim, dt, max_time_constant)
        elif isinstance(function, nn.Module):
            # An actor and its target each have one of their own
            function = copy.deepcopy(function)
        else:
            function = function(input_dim, state_dim)
        self.function = function
        shape = tuple(self.function(th.zeros(2, state_dim), th.zeros(2, input_dim)).shape)
        if shape != (2, state_dim):
            raise ValueError(
                f"function={type(self.function).__name__} returns dz/dt of the shape {shape} for two states, "
                f"but (batch, state_dim) = {(2, state_dim)} is needed"
            )

    def forward(self, inputs: th.Tensor, states: th.Tensor) -> tuple[th.Tensor, th.Tensor | None]:
        step = self.dt / self.n_substeps
        for _ in range(self.n_substeps):
            states = runge_kutta(lambda z: self.function(z, inputs), states, step)
        return states, None


class LeakyUnits(nn.Module):
    """
    ``dz/dt = (tanh(W [x, z] + b) - z) / tau``

    :param input_dim: Size of x
    :param state_dim: Size of the internal state z
    :param dt: Smallest time constant
    :param max_time_constant: Greatest time constant at initialisation, in units of ``dt``
    :raises ValueError: if it is smaller than 1
    """

    def __init__(self, input_dim: int, state_dim: int, dt: float, max_time_constant: float):
        super().__init__()
        if not max_time_constant >= 1:
            raise ValueError(f"max_time_constant={max_time_constant} must be at least 1 step")
        self.target = nn.Linear(input_dim + state_dim, state_dim)
        nn.init.orthogonal_(self.target.weight)
        self.min_log_tau = math.log(dt)
        self.log_tau = nn.Parameter(th.linspace(math.log(max_time_constant * dt), math.log(dt), state_dim))

    def forward(self, states: th.Tensor, inputs: th.Tensor) -> th.Tensor:
        # Units that are faster than a step would overshoot
        rate = th.exp(-self.log_tau.clamp(min=self.min_log_tau))
        return rate * (th.tanh(self.target(th.cat([inputs, states], dim=1))) - states)


class CPGKernel(StateKernel):
    """
    Central pattern generator: coupled oscillators, the inductive bias that the paper uses for locomotion. Oscillator i has the
    phase phi_i and the amplitude r_i; z holds ``r cos(phi)`` of all in its first half and ``r sin(phi)`` in its second:

        dr_i/dt = a (mu_i(x)^2 - r_i^2) r_i
        dphi_i/dt = 2 pi f_i(x) + sum_j w_ij r_j sin(phi_j - phi_i - psi_ij)

    (Hopf oscillators, coupled as Kuramoto's). Amplitudes mu in (0, 0.9) and frequencies f in (0, ``max_frequency``) depend on
    what is seen, couplings w and phase shifts psi are learned. Phases start spread over the circle, with an amplitude of 0.5.

    :param input_dim: Size of x
    :param state_dim: Size of the internal state z, even: twice the number of oscillators
    :param dt: Length of a step, in seconds
    :param max_frequency: Greatest frequency, in Hz
    :param convergence: a, how fast amplitudes settle, per second
    :raises ValueError: if ``state_dim`` is odd, or dt, frequency or convergence are not positive, or a step would be more
        than a quarter of a cycle or longer than 1 / ``convergence``
    """

    def __init__(
        self, input_dim: int, state_dim: int, dt: float = 0.05, max_frequency: float = 3.0, convergence: float = 10.0
    ):
        super().__init__(input_dim, state_dim)
        if state_dim % 2:
            raise ValueError(f"state_dim={state_dim} has to be even: an oscillator has two entries, use {state_dim + 1}")
        check_positive(dt=dt, max_frequency=max_frequency, convergence=convergence)
        if dt * max(4 * max_frequency, convergence) > 1:
            raise ValueError(
                f"dt={dt} is too long for max_frequency={max_frequency} and convergence={convergence}: "
                "a step must not be more than a quarter of a cycle, nor longer than amplitudes need to settle"
            )
        self.dt, self.max_frequency, self.convergence = dt, max_frequency, convergence
        self.n_oscillators = state_dim // 2
        # Rows: frequencies, amplitudes
        self.drive = nn.Linear(input_dim, state_dim)
        self.coupling = nn.Parameter(0.1 * th.randn(self.n_oscillators, self.n_oscillators))
        self.phase_shift = nn.Parameter(2 * math.pi * th.rand(self.n_oscillators, self.n_oscillators))

    def initial_state(self, n: int) -> th.Tensor:
        phase = th.arange(self.n_oscillators, device=self.coupling.device) * (2 * math.pi / self.n_oscillators)
        return 0.5 * th.cat([th.cos(phase), th.sin(phase)]).expand(n, -1)

    def forward(self, inputs: th.Tensor, states: th.Tensor) -> tuple[th.Tensor, th.Tensor | None]:
        frequency, amplitude = th.sigmoid(self.drive(inputs)).chunk(2, dim=1)
        omega, squared_target = 2 * math.pi * self.max_frequency * frequency, (0.9 * amplitude).square()
        # r_j exp(i (phi_j - psi_ij)) summed over j, as two products
        cos, sin = self.coupling * th.cos(self.phase_shift), self.coupling * th.sin(self.phase_shift)

        def velocity(z: th.Tensor) -> th.Tensor:
            x, y = z.chunk(2, dim=1)
            squared = x * x + y * y
            pull_x, pull_y = x @ cos.t() + y @ sin.t(), y @ cos.t() - x @ sin.t()
            # r_i times the sum over j of w_ij r_j sin(phi_j - phi_i - psi_ij), divided by r_i
            turn = omega + (x * pull_y - y * pull_x) / squared.sqrt().clamp(min=1e-3)
            growth = self.convergence * (squared_target - squared)
            return th.cat([growth * x - turn * y, growth * y + turn * x], dim=1)

        return runge_kutta(velocity, states, self.dt), None

    def phases(self, states: th.Tensor) -> th.Tensor:
        """
        :param states: z, shape (..., state_dim)
        :return: Phases in (-pi, pi], shape (..., state_dim / 2)
        """
        x, y = states.chunk(2, dim=-1)
        return th.atan2(y, x)


def runge_kutta(function: Callable[[th.Tensor], th.Tensor], states: th.Tensor, step: float) -> th.Tensor:
    """
    One step of the classical Runge-Kutta method.

    :param function: dz/dt as a function of z
    :param states: z, shape (batch, state_dim)
    :param step: Length of the step
    :return: z after it, shape (batch, state_dim)
    """
    k1 = function(states)
    k2 = function(states + 0.5 * step * k1)
    k3 = function(states + 0.5 * step * k2)
    k4 = function(states + step * k3)
    return states + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def check_positive(**arguments: float) -> None:
    """
    :param arguments: Arguments by name
    :raises ValueError: if one of them is not a positive finite number
    """
    for name, value in arguments.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value!r} must be a positive number")
