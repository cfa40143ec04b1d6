"""Tasks of the paper that need memory: a point has to find its way with what it was shown at the start."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

FIELD = 150.0
LANES = (25.0, 57.0, 88.0, 120.0)
START_Y, GOAL_Y = 15.0, 130.0
GOAL_RADIUS = 5.0
SPEED, DT, SUB_STEPS = 3.0, 0.2, 3
PIXELS_PER_UNIT = 2
BACKGROUND, VISIBLE_AREA, BLACK, WHITE = (66, 131, 237), (104, 162, 250), (0, 0, 0), (255, 255, 255)
SEEN, UNSEEN, REACHED = (210, 43, 43), (150, 150, 150), (124, 252, 0)


def scale(coordinates: np.ndarray) -> np.ndarray:
    """
    :param coordinates: Coordinates in the field, in [0, 150]
    :return: The same in [-1, 1], zero being the middle of the field
    """
    return np.asarray(coordinates, dtype=np.float64) * 2 / FIELD - 1


class PointMassMemory(gym.Env):
    """
    A point in a field of 150 x 150 has to reach a goal at the far side that it was shown at the start only.

    Start (x, 15) and goal (x, 130) have one of the four x 25, 57, 88 and 120 each, drawn at each reset. The goal is seen
    within ``radius`` of the start, and reads zero elsewhere.

    The observation is the position and the goal, (x, y, goal x, goal y), scaled to [-1, 1] from one side of the field to
    the other, so that the middle of the field is zero and no goal is. The action is the heading: -1 to 1 is an angle of
    0 to 2 pi, counter-clockwise from the x axis, so that -0.5 leads to the goals' side. A step is three sub-steps of
    0.2 seconds at speed 3, 1.8 units of length. The reward is exp(-0.1 distance to the goal) after the step; leaving
    the field ends the episode at its border with reward -2. Nothing else ends it, the time limit of 1000 steps apart.
    ``info["is_success"]``: whether the point has been within 5 of the goal at any time in the episode.

    :param privileged: Whether the observation is a Dict of ``observation`` and ``privileged``, the latter being the same
        with what is hidden always visible, for the critic alone
    :param radius: Distance to the start within which the goal is seen, in units of length
    :param reward_decay: How fast the reward falls off with the distance to the goal, per unit of length
    :param render_mode: None or ``"rgb_array"``
    :raises ValueError: if an argument is none of these
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 (gymnasium's own form)
    # How many entries of the observation, from the end, are hidden away from the start
    n_hidden = 2
    size = 4

    def __init__(
        self,
        privileged: bool = False,
        radius: float = 30.0,
        reward_decay: float = 0.1,
        render_mode: str | None = None,
    ):
        for name, value in (("radius", radius), ("reward_decay", reward_decay)):
            if not value > 0:
                raise ValueError(f"{name}={value!r} must be a positive number")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode={render_mode!r} must be None or 'rgb_array'")
        self.privileged, self.radius, self.reward_decay, self.render_mode = privileged, radius, reward_decay, render_mode
        space = spaces.Box(-1.0, 1.0, (self.size,), dtype=np.float32)
        self.observation_space = spaces.Dict({"observation": space, "privileged": space}) if privileged else space
        self.full_observation_space = space
        self.action_space = spaces.Box(-1.0, 1.0, (1,), dtype=np.float32)

    @property
    def hidden_is_visible(self) -> bool:
        return bool(np.linalg.norm(self.position - self.start) <= self.radius)

    def _full_observation(self) -> np.ndarray:
        return scale(np.concatenate([self.position, self.goal]))

    @property
    def full_observation(self) -> np.ndarray:
        """:return: The present observation with nothing hidden"""
        return self._full_observation().astype(np.float32)

    def _observation(self) -> Any:
        full = self.full_observation
        partial = full.copy()
        if not self.hidden_is_visible:
            partial[-self.n_hidden :] = 0
        return {"observation": partial, "privileged": full} if self.privileged else partial

    def _draw(self) -> None:
        """Draw what an episode has of its own, from ``np_random``."""
        self.start = np.array([self.np_random.choice(LANES), START_Y])
        self.goal = np.array([self.np_random.choice(LANES), GOAL_Y])

    def _ends_at(self, position: np.ndarray) -> bool:
        """
        :param position: Where the point would be, shape (2,)
        :return: Whether the episode ends there
        """
        return bool((position < 0).any() or (position > FIELD).any())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._draw()
        self.position = self.start
        self.path = [self.position]
        self.is_success = False
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        angle = (float(np.clip(np.asarray(action).item(), -1, 1)) + 1) * np.pi
        velocity = SPEED * np.array([np.cos(angle), np.sin(angle)])
        terminated = False
        for _ in range(SUB_STEPS):
            position = self.position + DT * velocity
            terminated = self._ends_at(position)
            self.position = np.clip(position, 0, FIELD)
            if terminated:
                break
            self.is_success |= bool(np.linalg.norm(self.position - self.goal) <= GOAL_RADIUS)
        self.path.append(self.position)
        distance = np.linalg.norm(self.position - self.goal)
        reward = -2.0 if terminated else float(np.exp(-self.reward_decay * distance))
        return self._observation(), reward, terminated, False, {"is_success": self.is_success}

    def render(self) -> np.ndarray | None:
        """
        :return: A picture, shape (300, 300, 3): what is hidden is red while it can be seen, grey when it cannot, and a
            goal that has been reached is green; lighter around the start where it can be seen
        """
        if self.render_mode is None:
            return None
        pixels = int(FIELD) * PIXELS_PER_UNIT
        centres = (np.arange(pixels) + 0.5) / PIXELS_PER_UNIT
        # Row 0 of a picture is at its top
        points = np.stack(np.meshgrid(centres, centres[::-1]), axis=-1)  # (pixels, pixels, 2)

        def disc(centre: np.ndarray, radius: float) -> np.ndarray:
            return np.linalg.norm(points - centre, axis=-1) <= radius

        picture = np.full((pixels, pixels, 3), BACKGROUND, dtype=np.uint8)
        picture[disc(self.start, self.radius)] = VISIBLE_AREA
        picture[disc(self.goal, GOAL_RADIUS)] = self._goal_color()
        self._paint(picture, points)
        for position in self.path:
            picture[disc(position, 0.5)] = WHITE
        picture[disc(self.position, 2.0)] = BLACK
        return picture

    def _color_of_hidden(self) -> tuple[int, int, int]:
        return SEEN if self.hidden_is_visible else UNSEEN

    def _goal_color(self) -> tuple[int, int, int]:
        return REACHED if self.is_success else self._color_of_hidden()

    def _paint(self, picture: np.ndarray, points: np.ndarray) -> None:
        """
        Paint what else is in the field.

        :param picture: Picture of the field, shape (pixels, pixels, 3)
        :param points: Coordinates of the pixels' centres, shape (pixels, pixels, 2)
        """


class PointMassDoors(PointMassMemory):
    """
    As ``PointMassMemory``, but the goal is always visible and two walls are in the way. Each has one door, drawn at each
    reset, which is seen within ``radius`` of the start, and reads zero elsewhere.

    The walls stand at y = 60 and y = 90 and are 5 thick; a door is 40 wide, its centre is drawn uniformly from 30 to 120,
    independently (all as in the authors' code). Touching a wall ends the episode with reward -2, as leaving the field
    does: were it only blocked, a point without memory could feel its way along the wall.

    The observation is (x, y, goal x, goal y, door 1 x, door 1 y, door 2 x, door 2 y), each door by its centre, scaled
    like the rest; the y of a door that can be seen, -0.2 and 0.2, tells it from one that cannot. The parameters are
    those of ``PointMassMemory``.
    """

    n_hidden = 4
    size = 8
    walls_y = (60.0, 90.0)
    wall_thickness = 5.0
    door_width = 40.0
    door_range = (30.0, 120.0)

    def _full_observation(self) -> np.ndarray:
        doors = np.column_stack([self.doors_x, self.walls_y]).ravel()
        return scale(np.concatenate([self.position, self.goal, doors]))

    def _draw(self) -> None:
        super()._draw()
        self.doors_x = self.np_random.uniform(*self.door_range, size=2)

    def _walls_and_doors(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        :param points: Coordinates, shape (..., 2)
        :return: Whether they are inside a wall, and inside a door, shape (...) each
        """
        x, y = points[..., None, 0], points[..., None, 1]
        at_height = np.abs(y - np.array(self.walls_y)) <= self.wall_thickness / 2  # (..., walls)
        at_door = np.abs(x - self.doors_x) < self.door_width / 2
        return (at_height & ~at_door).any(axis=-1), (at_height & at_door).any(axis=-1)

    def _ends_at(self, position: np.ndarray) -> bool:
        return super()._ends_at(position) or bool(self._walls_and_doors(position)[0])

    def _goal_color(self) -> tuple[int, int, int]:
        return REACHED if self.is_success else SEEN

    def _paint(self, picture: np.ndarray, points: np.ndarray) -> None:
        walls, doors = self._walls_and_doors(points)
        picture[walls], picture[doors] = BLACK, self._color_of_hidden()
