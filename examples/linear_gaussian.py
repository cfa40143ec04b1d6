"""What the linear-Gaussian examples share: the distribution of a linear closed loop, step by step."""

import torch as th


def covariances(transition: th.Tensor, noise: th.Tensor, start: th.Tensor, n_steps: int) -> list[th.Tensor]:
    """
    x' = M x + noise, from a Gaussian start.

    :param transition: M
    :param noise: Covariance of the noise
    :param start: Covariance of x at the first step
    :param n_steps: Number of steps
    :return: Covariance of x at every step, differentiable
    """
    result = [start]
    for _ in range(n_steps - 1):
        result.append(transition @ result[-1] @ transition.T + noise)
    return result
