"""Our tasks in gymnasium's registry."""

from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, WrapperSpec

from sb3_s2pg.envs.segments import VELOCITY_INDICES

LOCOMOTION = ("Ant", "HalfCheetah", "Hopper", "Walker2d", "Humanoid")
# What the authors of S2PG hide. Contact forces (in Humanoid, and in Ant from v5 on) stay visible, as they did there:
# they are what a sensor in the foot would feel.
HIDDEN_SEGMENTS: dict[str, tuple[str, ...]] = {
    **{name: ("velocities",) for name in (*LOCOMOTION, "InvertedPendulum")},
    "Humanoid": ("velocities", "com_inertia", "com_velocity", "actuator_forces"),
}
CUE_LENGTHS = (10, 20, 50, 100, 200)


class Task(NamedTuple):
    """A registered task: its id, what the policy does not see, and what is privileged, for the critic alone."""

    id: str
    hidden: str
    privileged: str


_tasks: list[Task] = []
_specs: dict[str, EnvSpec] = {}


def list_tasks() -> list[Task]:
    """
    :return: Every task that this package registers; ``python -m sb3_s2pg.envs`` prints them as a table
    """
    return list(_tasks)


def _is_of_rl_zoo(spec: EnvSpec) -> bool:
    """
    :param spec: A registered task
    :return: Whether RL Zoo has registered it
    """
    return getattr(spec.entry_point, "__module__", "") == "rl_zoo3.import_envs"


def _register_partial(name: str, suffix: str, privileged: bool = False, randomized_mass: bool = False) -> None:
    """
    Register ``<name><suffix>-vN``, N being the newest version of the task that the installed gymnasium has.

    :param name: Task name without version
    :param suffix: What to append to the name
    :param privileged: Whether the observation gets a ``privileged`` key
    :param randomized_mass: Whether the masses are drawn at each reset
    """
    versions = [spec for spec in gym.registry.values() if spec.name == name and spec.namespace is None]
    base = max(versions, key=lambda spec: spec.version or 0)
    env_id = f"{name}{suffix}-v{base.version}"
    hidden: Any = HIDDEN_SEGMENTS[name] if name in HIDDEN_SEGMENTS else VELOCITY_INDICES[name]
    _tasks.append(
        Task(
            env_id,
            ", ".join(HIDDEN_SEGMENTS.get(name, ("velocities",))) + (", masses" if randomized_mass else ""),
            ("full observation" if privileged else "") + (", masses" if randomized_mass else ""),
        )
    )
    if env_id in gym.registry and not _is_of_rl_zoo(gym.registry[env_id]):
        return
    # RL Zoo's hide the same, but they take no arguments, cannot be pickled, and keep time-limit and threshold to themselves
    gym.registry.pop(env_id, None)
    wrappers = [
        WrapperSpec(
            name="PartialObservation",
            entry_point="sb3_s2pg.envs.partial_observation:PartialObservation",
            kwargs={"hidden": hidden, "privileged": privileged},
        )
    ]
    if randomized_mass:
        entry_point = "sb3_s2pg.envs.randomized_mass:RandomizedMass"
        wrappers.append(WrapperSpec(name="RandomizedMass", entry_point=entry_point, kwargs={}))
    gym.register(
        env_id,
        entry_point=base.entry_point,
        reward_threshold=base.reward_threshold,
        max_episode_steps=base.max_episode_steps,
        additional_wrappers=tuple(wrappers),
        kwargs=base.kwargs,
    )


def _register_own(task: Task, entry_point: str, **kwargs: Any) -> None:
    """
    Register a task of our own.

    :param task: Id and what is hidden
    :param entry_point: Class of the task inside ``sb3_s2pg.envs``
    :param kwargs: Arguments of ``gym.register``
    """
    _tasks.append(task)
    gym.register(task.id, entry_point=f"sb3_s2pg.envs.{entry_point}", **kwargs)


def register_tasks() -> None:
    """Register every task; done once, when ``sb3_s2pg`` is imported."""
    for name in (*VELOCITY_INDICES, *HIDDEN_SEGMENTS):
        _register_partial(name, "NoVel")
        _register_partial(name, "NoVelPriv", privileged=True)
    for name in LOCOMOTION:
        _register_partial(name, "NoVelMass", privileged=True, randomized_mass=True)
    for name, hidden in (("PointMassMemory", "goal away from the start"), ("PointMassDoors", "doors away from the start")):
        entry_point = f"point_mass:{name}"
        _register_own(Task(f"{name}-v0", hidden, ""), entry_point, max_episode_steps=1000)
        priv = Task(f"{name}Priv-v0", hidden, "full observation")
        _register_own(priv, entry_point, max_episode_steps=1000, kwargs={"privileged": True})
    # gym.make("FirstStepCue-v0", length=30) for other lengths than these
    for name, continuous in (("FirstStepCue", False), ("FirstStepCueContinuous", True)):
        for length in ("", *CUE_LENGTHS):
            kwargs = {"continuous": continuous, **({"length": length} if length else {})}
            task = Task(f"{name}{length}-v0", "cue after the first step", "")
            _register_own(task, "first_step_cue:FirstStepCue", kwargs=kwargs)
    _specs.update({task.id: gym.registry[task.id] for task in _tasks})


def restore_tasks() -> None:
    """Put our tasks back where RL Zoo, imported after ``sb3_s2pg``, has registered its own under the same ids."""
    replaced = [env_id for env_id in _specs if env_id in gym.registry and _is_of_rl_zoo(gym.registry[env_id])]
    gym.registry.update({env_id: _specs[env_id] for env_id in replaced})
