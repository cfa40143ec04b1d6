"""State kernels, by name or as classes."""

from sb3_s2pg.common.kernels.base import StateKernel, check_kernel
from sb3_s2pg.common.kernels.dynamical import CPGKernel, ODEKernel, OUKernel
from sb3_s2pg.common.kernels.gated import GRUKernel, LinearKernel, LSTMKernel, RNNKernel
from sb3_s2pg.common.named import resolve_class

KERNELS: dict[str, type[StateKernel]] = {
    "gru": GRUKernel,
    "lstm": LSTMKernel,
    "rnn": RNNKernel,
    "linear": LinearKernel,
    "ou": OUKernel,
    "ode": ODEKernel,
    "cpg": CPGKernel,
}


def get_kernel_class(kernel: str | type[StateKernel]) -> type[StateKernel]:
    """
    :param kernel: Name of a kernel of this package, or a class derived from ``StateKernel``
    :return: The kernel class
    :raises ValueError: if there is no such kernel
    """
    return resolve_class("state_kernel_class", kernel, KERNELS, StateKernel, "a state kernel")


__all__ = [
    "KERNELS",
    "CPGKernel",
    "GRUKernel",
    "LSTMKernel",
    "LinearKernel",
    "ODEKernel",
    "OUKernel",
    "RNNKernel",
    "StateKernel",
    "check_kernel",
    "get_kernel_class",
]
