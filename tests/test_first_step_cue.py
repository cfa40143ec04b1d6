"""A task that needs memory and nothing else: the cue is seen at the first step only."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_s2pg import S2PGPPO
from sb3_s2pg.envs import FirstStepCue


def play(env, actions, seed=None):
    obs, info = env.reset(seed=seed)
    observations, rewards, infos, over = [obs], [], [info], False
    for action in actions:
        assert not over
        obs, reward, over, truncated, info = env.step(action)
        assert not truncated
        observations.append(obs)
        rewards.append(reward)
        infos.append(info)
    return np.array(observations), rewards, infos, over


@pytest.mark.filterwarnings("ignore")
def test_environment_checkers():
    check_env(gym.make("FirstStepCue-v0").unwrapped, skip_render_check=True)
    sb3_check_env(gym.make("FirstStepCue-v0", length=3, n_cues=2, n_distractors=1))
    sb3_check_env(gym.make("FirstStepCueContinuous-v0", length=3))


def test_picture_shows_the_observation():
    env = gym.make("FirstStepCue-v0", render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    for _ in range(2):
        picture = env.render()
        assert picture.shape == (40, 240, 3) and picture.dtype == np.uint8
        np.testing.assert_allclose(picture[20, 20::40, 0] / 127.5 - 1, observation, atol=0.01)
        observation, *_ = env.step(0)
    with pytest.raises(ValueError, match="render_mode='human'"):
        FirstStepCue(render_mode="human")


def test_spaces_and_arguments():
    env = gym.make("FirstStepCue-v0", length=5, n_cues=3, n_distractors=4).unwrapped
    assert (env.length, env.observation_space.shape, env.action_space.n) == (5, (7,), 3)
    env = gym.make("FirstStepCue-v0").unwrapped
    assert (env.length, env.observation_space.shape, env.action_space.n) == (20, (6,), 4)


def test_the_cue_is_seen_at_the_first_step_only_and_counts_at_the_last():
    env = FirstStepCue(length=4, n_cues=3)
    seen = set()
    for seed in range(20):
        observations, *_ = play(env, [], seed=seed)
        cue = int(observations[0, :3].argmax())
        assert observations[0, :3].sum() == 1
        seen.add(cue)
        for last in range(3):
            # The right answer before the end does not count
            observations, rewards, infos, over = play(env, [cue] * 4 + [last], seed=seed)
            assert over and rewards == [0.0] * 4 + [float(last == cue)]
            assert (observations[1:, :3] == 0).all()
            assert infos[:-1] == [{}] * 5 and infos[-1] == {"is_success": last == cue}
            assert all(obs.dtype == np.float32 and env.observation_space.contains(obs) for obs in observations)
            # Noise is new at every step
            assert len(np.unique(observations[:, 3:])) == 6 * 2
    assert seen == {0, 1, 2}


def test_the_largest_number_names_the_cue():
    assert gym.spec("FirstStepCueContinuous200-v0").kwargs == {"length": 200, "continuous": True}
    env = gym.make("FirstStepCueContinuous10-v0", length=2).unwrapped
    assert env.action_space.shape == (4,)
    for seed in range(10):
        observations, *_ = play(env, [], seed=seed)
        answer = np.full(4, -0.3, dtype=np.float32)
        answer[observations[0, :4].argmax()] = -0.2
        waiting = np.zeros(4, dtype=np.float32)
        assert play(env, [waiting, waiting, answer], seed=seed)[1] == [0.0, 0.0, 1.0]
        assert play(env, [waiting, waiting, -answer], seed=seed)[1] == [0.0, 0.0, 0.0]


def test_the_same_seed_gives_the_same_episode():
    env, other = FirstStepCue(length=3), FirstStepCue(length=3)
    first = play(env, [0] * 4, seed=5)[0]
    np.testing.assert_array_equal(first, play(env, [1] * 4, seed=5)[0])
    np.testing.assert_array_equal(first, play(other, [0] * 4, seed=5)[0])
    assert not np.array_equal(first, play(other, [0] * 4, seed=6)[0])
    # Without a seed the generator goes on
    assert not np.array_equal(play(env, [0] * 4)[0], play(env, [0] * 4)[0])


def test_nothing_but_the_cue_tells_the_answer():
    """All cues come equally often, and the noise does not depend on them."""
    env = FirstStepCue(length=1, n_cues=4, n_distractors=1)
    env.reset(seed=0)
    firsts = np.array([play(env, [0, 0])[0] for _ in range(2000)])
    cues, noise = firsts[:, 0, :4], firsts[:, :, 4]
    np.testing.assert_allclose(cues.mean(axis=0), 0.25, atol=0.04)
    assert np.abs(np.corrcoef(np.column_stack([cues, noise]).T)[:4, 4:]).max() < 0.1


@pytest.mark.parametrize(
    "kwargs, match",
    [
        ({"length": 0}, "length=0 must be an integer >= 1"),
        ({"length": 2.5}, "length=2.5"),
        ({"length": True}, "length=True"),
        ({"n_cues": 1}, "n_cues=1 must be an integer >= 2"),
        ({"n_distractors": 0}, "n_distractors=0"),
        ({"n_cues": "4"}, "n_cues='4'"),
    ],
)
def test_bad_arguments(kwargs, match):
    with pytest.raises(ValueError, match=match):
        gym.make("FirstStepCue-v0", **kwargs)


def success_rate(state_dim: int, seed: int) -> float:
    kwargs = {"env_kwargs": {"length": 2, "n_cues": 2}}
    model = S2PGPPO(
        "MlpPolicy",
        make_vec_env("FirstStepCue-v0", 8, seed=seed, **kwargs),
        learning_rate=3e-3,
        n_steps=64,
        batch_size=128,
        seed=seed,
        device="cpu",
        # Without the previous action, which could carry the cue as well
        policy_kwargs={"net_arch": [32], "state_dim": state_dim, "use_previous_action": False, "kernel_lr_ratio": 0.3},
    )
    model.learn(5000)
    eval_env = make_vec_env("FirstStepCue-v0", 8, seed=100, **kwargs)
    return float(evaluate_policy(model, eval_env, n_eval_episodes=100)[0])


# 1.0 for each of the seeds 0 to 2 after 4096 steps
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.filterwarnings("ignore:.*render_mode")
def test_a_cue_is_remembered(seed):
    assert success_rate(state_dim=8, seed=seed) > 0.9


@pytest.mark.filterwarnings("ignore:.*render_mode")
def test_without_memory_it_is_not():
    assert success_rate(state_dim=0, seed=0) < 0.65
