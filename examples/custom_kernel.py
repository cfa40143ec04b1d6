"""
A state kernel of your own: a bank of leaky averages of what was seen, fast ones and slow ones.

    python examples/custom_kernel.py [steps]
"""

import sys

import gymnasium as gym
import torch as th
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_s2pg import S2PGSAC, StateKernel


class LeakyKernel(StateKernel):
    """``z' = z + rate * (tanh(W x) - z)`` with fixed rates from 1 to 1 / ``slowest``; stays in (-1, 1), as S2PGSAC needs."""

    rate: th.Tensor

    def __init__(self, input_dim: int, state_dim: int, slowest: float = 30.0):
        super().__init__(input_dim, state_dim)
        self.write = th.nn.Linear(input_dim, state_dim)
        self.register_buffer("rate", th.logspace(0, -1, state_dim, base=slowest))

    def forward(self, inputs: th.Tensor, states: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        rate = self.rate.expand_as(states)
        return th.lerp(states, th.tanh(self.write(inputs)), rate), rate  # the noise is scaled by what is written


if __name__ == "__main__":
    env = gym.make("PendulumNoVel-v1")
    model = S2PGSAC("MlpPolicy", env, policy_kwargs={"state_kernel_class": LeakyKernel}, seed=0, verbose=1)
    model.learn(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
    print(evaluate_policy(model, env, n_eval_episodes=20))  # -150 is good, -1200 is a policy without memory
