"""Partially observable tasks; importing this package registers them."""

from sb3_s2pg.envs.first_step_cue import FirstStepCue
from sb3_s2pg.envs.partial_observation import PartialObservation
from sb3_s2pg.envs.point_mass import PointMassDoors, PointMassMemory
from sb3_s2pg.envs.randomized_mass import RandomizedMass
from sb3_s2pg.envs.registration import Task, list_tasks, register_tasks
from sb3_s2pg.envs.segments import VELOCITY_INDICES
from sb3_s2pg.envs.views import ActorObservation, FullObservation, WindowObservation

register_tasks()

__all__ = [
    "VELOCITY_INDICES",
    "ActorObservation",
    "FirstStepCue",
    "FullObservation",
    "PartialObservation",
    "PointMassDoors",
    "PointMassMemory",
    "RandomizedMass",
    "Task",
    "WindowObservation",
    "list_tasks",
]
