"""The paper's two point-mass tasks, with numbers that were worked out by hand."""

import gymnasium as gym
import numpy as np
import pytest

from sb3_s2pg.envs import PointMassDoors, PointMassMemory

RIGHT, UP, LEFT = [-1.0], [-0.5], [0.0]


def at(env, start_x, goal_x, doors_x=(75.0, 75.0)):
    """Reset until the lanes are these; the doors are put where they are wanted."""
    env.reset(seed=0)
    while (env.start[0], env.goal[0]) != (start_x, goal_x):
        env.reset()
    env.doors_x = np.array(doors_x)
    return env


def test_headings_and_rewards():
    env = at(PointMassMemory(), 57, 88)
    for action, position in (
        (UP, [57, 16.8]),
        (RIGHT, [58.8, 16.8]),
        (LEFT, [57, 16.8]),
        ([0.5], [57, 15]),
        # Out of bounds is clipped to 1, which is the same heading as -1
        ([3.0], [58.8, 15]),
        (np.array([-0.75], dtype=np.float32), [58.8 + 1.8 / np.sqrt(2), 15 + 1.8 / np.sqrt(2)]),
    ):
        observation, reward, terminated, truncated, info = env.step(action)
        np.testing.assert_allclose(env.position, position, atol=1e-6)
        assert reward == pytest.approx(np.exp(-0.1 * np.hypot(position[0] - 88, position[1] - 130)))
        assert not terminated and not truncated and info == {"is_success": False}
        np.testing.assert_allclose(observation[:2], np.array(position) / 75 - 1, atol=1e-6)


def test_the_goal_is_seen_near_the_start_only():
    env = at(PointMassMemory(privileged=True), 57, 120)
    goal = [0.6, 130 / 75 - 1]
    # 16 steps of 1.8 are 28.8, 17 are 30.6
    for step in range(1, 19):
        observation, *_ = env.step(UP)
        assert observation["observation"].dtype == np.float32
        np.testing.assert_allclose(observation["observation"][2:], goal if step <= 16 else [0, 0], atol=1e-6)
        np.testing.assert_allclose(observation["privileged"], [57 / 75 - 1, (15 + 1.8 * step) / 75 - 1, *goal], atol=1e-6)
    # And again when the point comes back
    for visible in (False, True):
        observation, *_ = env.step([0.5])
        assert (observation["observation"][2:] != 0).all() == visible


def test_leaving_the_field_ends_the_episode():
    env = at(PointMassMemory(), 25, 25)
    # 25 are 41.7 sub-steps of 0.6: the second-to-last of the 14th step ends at 0.4, the last one outside
    for step in range(1, 15):
        observation, reward, terminated, truncated, _ = env.step(LEFT)
        assert (terminated, reward == -2.0, truncated) == (step == 14, step == 14, False)
    np.testing.assert_allclose(env.position, [0, 15])
    assert observation[0] == -1.0 and env.observation_space.contains(observation)


def test_success_is_to_have_been_at_the_goal():
    env = at(PointMassMemory(), 88, 88)
    # From 15 to 125 are 183.3 sub-steps, which end in the 62nd step
    successes = [env.step(UP)[4]["is_success"] for _ in range(62)]
    assert successes == [False] * 61 + [True]
    # 15 + 62 * 1.8 = 126.6
    np.testing.assert_allclose(env.position, [88, 126.6])
    assert env.step(UP)[1] == pytest.approx(np.exp(-0.16))
    assert all(env.step(RIGHT)[4]["is_success"] for _ in range(10))
    assert np.hypot(*(env.position - env.goal)) > 5
    env.reset()
    assert env.step(UP)[4] == {"is_success": False}
    # One lane beside it is no success
    env = at(PointMassMemory(), 57, 88)
    assert not any(env.step(UP)[4]["is_success"] for _ in range(74))


def test_the_time_limit():
    env = gym.make("PointMassMemory-v0")
    env.reset(seed=0)
    over = [env.step(RIGHT if step % 2 else LEFT)[2:4] for step in range(1000)]
    assert over == [(False, False)] * 999 + [(False, True)]


@pytest.mark.parametrize("env_class", [PointMassMemory, PointMassDoors])
def test_draws(env_class):
    env, other = env_class(), env_class()
    env.reset(seed=1)
    other.reset(seed=1)
    lanes, doors = [], []
    for _ in range(300):
        np.testing.assert_array_equal(env.reset()[0], other.reset()[0])
        assert (env.start[1], env.goal[1]) == (15, 130)
        lanes.append((env.start[0], env.goal[0]))
        doors.extend(getattr(env, "doors_x", []))
    assert set(lanes) == {(start, goal) for start in (25, 57, 88, 120) for goal in (25, 57, 88, 120)}
    if env_class is PointMassDoors:
        assert 30 <= min(doors) < 33 and 117 < max(doors) <= 120
        np.testing.assert_allclose(np.mean(doors), 75, atol=5)
    assert not np.array_equal(env.reset(seed=2)[0], other.reset(seed=1)[0])


def test_doors_are_seen_near_the_start_and_the_goal_everywhere():
    env = at(PointMassDoors(privileged=True), 57, 120, doors_x=(60, 105))
    doors = [-0.2, -0.2, 0.4, 0.2]
    for step in range(1, 19):
        observation, *_ = env.step(UP)
        expected = [57 / 75 - 1, (15 + 1.8 * step) / 75 - 1, 0.6, 130 / 75 - 1]
        np.testing.assert_allclose(observation["observation"], expected + (doors if step <= 16 else [0] * 4), atol=1e-6)
        np.testing.assert_allclose(observation["privileged"], expected + doors, atol=1e-6)


@pytest.mark.parametrize(
    "doors_x, end, y",
    [
        # The walls begin at 57.5 and 87.5: 70.8 and 120.8 sub-steps above the start
        ((120, 88), 24, 57.6),
        ((88, 30), 41, 87.6),
        # A door is 40 wide: 88 is just inside that of 107.9, and just outside that of 108.1
        ((107.9, 108.1), 41, 87.6),
        ((68.1, 67.9), 41, 87.6),
    ],
)
def test_touching_a_wall_ends_the_episode(doors_x, end, y):
    env = at(PointMassDoors(), 88, 88, doors_x)
    for step in range(1, end + 1):
        _, reward, terminated, _, info = env.step(UP)
        assert (terminated, reward == -2.0) == (step == end, step == end)
    np.testing.assert_allclose(env.position, [88, y])
    assert not info["is_success"]


def test_through_both_doors():
    env = at(PointMassDoors(), 88, 88, doors_x=(70, 106))
    results = [env.step(UP) for _ in range(62)]
    assert not any(terminated for _, _, terminated, _, _ in results)
    assert [info["is_success"] for *_, info in results] == [False] * 61 + [True]


def test_pictures():
    env = gym.make("PointMassDoors-v0", render_mode="rgb_array")
    task = at(env.unwrapped, 57, 88, doors_x=(60, 105))
    picture = task.render()
    assert picture.shape == (300, 300, 3) and picture.dtype == np.uint8

    def color(picture, x, y):
        return tuple(picture[299 - int(2 * y), int(2 * x)])

    black, red, grey = (0, 0, 0), (210, 43, 43), (150, 150, 150)
    # The point, the goal, both walls with their doors, and what lies in between
    assert [color(picture, *point) for point in ((57, 15), (20, 60), (20, 90), (81, 90))] == [black] * 4
    assert [color(picture, *point) for point in ((88, 130), (60, 60), (105, 90))] == [red] * 3
    assert color(picture, 57, 40) != color(picture, 57, 50) == color(picture, 20, 75)
    for _ in range(20):
        task.step(UP)
    picture = task.render()
    assert [color(picture, *point) for point in ((60, 60), (105, 90))] == [grey] * 2
    assert color(picture, 88, 130) == red and color(picture, 57, 51) == black

    task = at(PointMassMemory(render_mode="rgb_array"), 57, 57)
    assert color(task.render(), 57, 130) == red
    for _ in range(20):
        task.step(UP)
    assert color(task.render(), 57, 130) == grey
    for _ in range(42):
        task.step(UP)
    assert color(task.render(), 57, 134) == (124, 252, 0)
    assert PointMassMemory().render() is None


def test_other_settings():
    env = at(PointMassMemory(radius=10, reward_decay=0.03), 57, 57)
    # 5 steps are 9.0, 6 are 10.8
    visible = [bool(env.step(UP)[0][3] != 0) for _ in range(6)]
    assert visible == [True] * 5 + [False]
    assert env.step(UP)[1] == pytest.approx(np.exp(-0.03 * (115 - 7 * 1.8)))


@pytest.mark.parametrize(
    "kwargs, match",
    [
        ({"radius": 0}, "radius=0 must be a positive number"),
        ({"reward_decay": -0.1}, "reward_decay=-0.1 must be a positive number"),
        ({"render_mode": "human"}, "render_mode='human' must be None or 'rgb_array'"),
    ],
)
def test_bad_arguments(kwargs, match):
    with pytest.raises(ValueError, match=match):
        PointMassDoors(**kwargs)
