from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class RandomizedMass(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """
    Redraw the mass of every body of a MuJoCo task at each reset, independently, and keep it for the episode.

    A body that is drawn to change by d has (1 + d) times its mass, its inertia, and the radius (``geom_size[:, 0]``) of each
    of its geoms. Radius and mass are what the authors of S2PG change. The inertia changes as if it were the density that
    is drawn (the authors leave it, which would turn a heavier body into one that is too easy to rotate); what the
    radius itself would do to it is left out. Lengths stay, because the joints stay where they are.
    What MuJoCo derives from masses and sizes follows: inverse weights, actuator and tendon constants, subtree masses
    (``mj_setConst``), and the bounds with which it looks for contacts (they never shrink, which is safe).
    World and floor stay as they are. ``close`` puts everything back.

    The policy never sees the draw. It is in ``info["mass_change"]`` of each reset, and if the observation is a Dict with
    the key ``privileged``, it is appended to that. So this wrapper comes last::

        RandomizedMass(PartialObservation(env, "velocities", privileged=True))

    A reset with a seed resets the task twice: once to seed its generator, from which the masses are drawn, and once
    more for an initial state, and an observation of it, that belong to the new masses.

    :param env: A MuJoCo task of gymnasium
    :param changes: Relative changes of the mass from which each body draws one, all equally likely
    :raises ValueError: if the task is not a MuJoCo task, or if a change is not a number above -1
    """

    def __init__(self, env: gym.Env, changes: Sequence[float] = (-0.3, 0.0, 0.3)):
        gym.utils.RecordConstructorArgs.__init__(self, changes=changes)
        gym.Wrapper.__init__(self, env)
        self.changes = np.asarray(changes, dtype=np.float64)
        if self.changes.ndim != 1 or len(self.changes) == 0 or not ((self.changes > -1) & np.isfinite(self.changes)).all():
            raise ValueError(f"changes={changes!r} must be numbers above -1, such as (-0.3, 0.0, 0.3)")
        model: Any = getattr(env.unwrapped, "model", None)
        if not hasattr(model, "body_mass"):
            raise ValueError(f"RandomizedMass needs a MuJoCo task such as HalfCheetah, not {env}")

        names = ("body_mass", "body_inertia", "geom_size", "geom_rbound", "geom_aabb", "bvh_aabb")
        self._original = {name: getattr(model, name).copy() for name in names}
        # Of every body but the world, which comes first
        self.mass_change = np.zeros(model.nbody - 1)

        space = env.observation_space
        self._privileged = isinstance(space, spaces.Dict) and "privileged" in space.spaces
        if isinstance(space, spaces.Dict) and self._privileged:
            full = space["privileged"]
            assert isinstance(full, spaces.Box)
            bounds = np.full_like(self.mass_change, self.changes.min()), np.full_like(self.mass_change, self.changes.max())
            appended = spaces.Box(
                np.concatenate([full.low, bounds[0]]).astype(full.dtype),
                np.concatenate([full.high, bounds[1]]).astype(full.dtype),
                dtype=full.dtype,
            )
            self.observation_space = spaces.Dict({**space.spaces, "privileged": appended})

    def _set(self, mass_change: np.ndarray) -> None:
        """
        :param mass_change: Relative change of every body but the world, shape (number of bodies - 1,)
        """
        # Not at the top: the package has to be importable without MuJoCo
        import mujoco

        task: Any = self.unwrapped
        model, original = task.model, self._original
        factor = np.concatenate([[1.0], 1 + mass_change])
        model.body_mass[:] = original["body_mass"] * factor
        model.body_inertia[:] = original["body_inertia"] * factor[:, None]
        model.geom_size[:, 0] = original["geom_size"][:, 0] * factor[model.geom_bodyid]

        # As much wider as the widest geom has become; newer versions of MuJoCo do it themselves, in mj_setConst
        wider = np.maximum(model.geom_size[:, 0] - original["geom_size"][:, 0], 0)
        model.geom_rbound[:] = original["geom_rbound"] + wider
        model.geom_aabb[:, 3:] = original["geom_aabb"][:, 3:] + wider[:, None]
        model.bvh_aabb[:] = original["bvh_aabb"]
        for body in range(1, model.nbody):
            start, end = model.body_bvhadr[body], model.body_bvhadr[body] + model.body_bvhnum[body]
            model.bvh_aabb[start:end, 3:] += wider[model.geom_bodyid == body].max(initial=0)
        mujoco.mj_setConst(model, task.data)
        self.mass_change = mass_change

    def observation(self, observation: Any) -> Any:
        """
        :param observation: Observation of the wrapped environment
        :return: The same, with the draw appended to what is privileged
        """
        if not self._privileged:
            return observation
        full = observation["privileged"]
        return {**observation, "privileged": np.concatenate([full, self.mass_change]).astype(full.dtype)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.env.reset(seed=seed, options=options)
        self._set(self.unwrapped.np_random.choice(self.changes, len(self.mass_change)))
        observation, info = self.env.reset(options=options)
        return self.observation(observation), {**info, "mass_change": self.mass_change.copy()}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self.observation(observation), reward, terminated, truncated, info

    def close(self) -> None:
        self._set(np.zeros_like(self.mass_change))
        super().close()
