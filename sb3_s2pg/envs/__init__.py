"""Partially observable versions of gymnasium's tasks; importing this package registers them."""

import gymnasium as gym
from gymnasium.envs.registration import WrapperSpec

from sb3_s2pg.envs.first_step_cue import FirstStepCue
from sb3_s2pg.envs.partial_observation import PartialObservation

# Which entries of the observation are velocities (the same that RL Zoo's MaskVelocityWrapper hides)
VELOCITY_INDICES = {
    "CartPole": (1, 3),
    "LunarLander": (2, 3, 5),
    "LunarLanderContinuous": (2, 3, 5),
    "MountainCar": (1,),
    "MountainCarContinuous": (1,),
    "Pendulum": (2,),
}


def _register(name: str, suffix: str, privileged: bool = False) -> None:
    """
    Register ``<name><suffix>-vN``, N being the newest version of the task that the installed gymnasium has.

    :param name: Task name without version
    :param suffix: What to append to the name
    :param privileged: Whether the observation gets a ``privileged`` key
    """
    versions = [spec for spec in gym.registry.values() if spec.name == name and spec.namespace is None]
    base = max(versions, key=lambda spec: spec.version or 0)
    env_id = f"{name}{suffix}-v{base.version}"
    if env_id in gym.registry:
        # RL Zoo was imported before: its tasks are the same
        return
    wrapper = WrapperSpec(
        name="PartialObservation",
        entry_point="sb3_s2pg.envs.partial_observation:PartialObservation",
        kwargs={"hidden": VELOCITY_INDICES[name], "privileged": privileged},
    )
    gym.register(
        env_id,
        entry_point=base.entry_point,
        reward_threshold=base.reward_threshold,
        max_episode_steps=base.max_episode_steps,
        additional_wrappers=(wrapper,),
        kwargs=base.kwargs,
    )


for _name in VELOCITY_INDICES:
    _register(_name, "NoVel")
_register("Pendulum", "NoVelPriv", privileged=True)
# gym.make("FirstStepCue-v0", length=30) for other lengths than these
gym.register("FirstStepCue-v0", entry_point="sb3_s2pg.envs.first_step_cue:FirstStepCue")
for _length in (20, 50, 100):
    gym.register(
        f"FirstStepCue{_length}-v0",
        entry_point="sb3_s2pg.envs.first_step_cue:FirstStepCue",
        kwargs={"length": _length},
    )

__all__ = ["VELOCITY_INDICES", "FirstStepCue", "PartialObservation"]
