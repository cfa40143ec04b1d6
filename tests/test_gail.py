"""GAIL and AIRL with stateful generators: who sees what, fresh rewards, log-probabilities, save and resume."""

import dataclasses
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch as th
from adversarial import (
    BOX,
    EPISODE,
    demonstrations,
    make_generator,
    make_trainer,
    make_venv,
    second_half,
    two_actions,
    weights,
)
from envs import AnyAction, Images
from gymnasium import spaces
from imitation.algorithms.adversarial.airl import AIRL
from imitation.algorithms.adversarial.gail import GAIL
from imitation.data.rollout import flatten_trajectories, make_sample_until, rollout
from imitation.data.types import TransitionsMinimal
from imitation.rewards.reward_nets import BasicRewardNet, BasicShapedRewardNet, NormalizedRewardNet
from imitation.rewards.reward_wrapper import RewardVecEnvWrapper
from imitation.util.networks import RunningNorm
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize, VecTransposeImage

from sb3_s2pg import S2PGAIRL, S2PGGAIL, S2PGSAC, StateKernel
from sb3_s2pg.common.rolling import roll_states
from sb3_s2pg.gail.airl import STATE
from sb3_s2pg.gail.gail import entropy_gradient

GENERATORS = ["S2PGPPO", "S2PGSAC", "S2PGTD3"]
OFF_POLICY = GENERATORS[1:]
PRIVILEGED = "PendulumNoVelPriv-v1"


class SeesAll(BasicRewardNet):
    """A discriminator that reads everything, done included."""

    def __init__(self, venv):
        super().__init__(venv.observation_space, venv.action_space, use_next_state=True, use_done=True)


# imitation's own trainers


@pytest.mark.parametrize("generator", GENERATORS)
def test_gail_of_imitation_runs_unmodified(generator, tmp_path):
    venv = make_venv()
    net = BasicRewardNet(venv.observation_space, venv.action_space)
    trainer = make_trainer(GAIL, generator, tmp_path, venv, reward_net=net)
    before = weights(trainer)
    trainer.train(128)
    after = weights(trainer)
    assert any(not th.equal(before[name], after[name]) for name in after if name.startswith("policy"))
    assert any(not th.equal(before[name], after[name]) for name in after if name.startswith("discriminator"))
    _, state = trainer.policy.predict(venv.reset(), None, np.ones(2, dtype=bool))
    assert state.shape == (2, 3 + 1)


def test_airl_of_imitation_ends_in_an_error(tmp_path):
    venv = make_venv()
    net = BasicRewardNet(venv.observation_space, venv.action_space)
    with pytest.raises(ValueError, match="S2PGAIRL"):
        make_trainer(AIRL, "S2PGPPO", tmp_path, venv, reward_net=net).train(64)
    for generator in OFF_POLICY:
        with pytest.raises(TypeError, match="AIRL needs a stochastic policy"):
            make_trainer(AIRL, generator, tmp_path, venv, reward_net=net)
    trainer = make_trainer(S2PGAIRL, "S2PGSAC", tmp_path, venv, reward_net=net)
    trainer.train(128)
    with pytest.raises(ValueError, match="S2PGTD3 has no log-probability"):
        make_trainer(S2PGAIRL, "S2PGTD3", tmp_path, venv, reward_net=net)


# Rewards of an off-policy generator


def sampled_and_predicted(trainer, batch_size=64):
    """Rewards of a sampled batch, and what the present discriminator says about it."""
    model = trainer.gen_algo
    batch = model.replay_buffer.sample(batch_size, env=model.get_vec_normalize_env())
    obs, next_obs = batch.observations, batch.next_observations
    if isinstance(obs, dict):
        obs, next_obs = (trainer._layout.flatten({key: part.numpy() for key, part in o.items()}) for o in (obs, next_obs))
    else:
        obs, next_obs = obs.numpy(), next_obs.numpy()
    actions = model.policy.unscale_action(batch.actions.numpy())
    predicted = trainer.reward_train.predict_processed(obs, actions, next_obs, batch.dones.numpy().flatten())
    return batch, predicted


@pytest.mark.parametrize("trainer_class", [GAIL, S2PGGAIL])
@pytest.mark.parametrize("generator", OFF_POLICY)
def test_sampled_rewards_are_those_of_the_present_discriminator(generator, trainer_class, tmp_path):
    venv = two_actions()
    trainer = make_trainer(trainer_class, generator, tmp_path, venv, reward_net=SeesAll(venv))
    for _ in range(3):
        trainer.train(64)
        batch, predicted = sampled_and_predicted(trainer)
        np.testing.assert_array_equal(batch.rewards.numpy().flatten(), predicted)
        # All episodes end by a time-limit
        assert trainer.gen_algo.replay_buffer.dones[:32].any() and not batch.dones.any()
        stale = trainer.gen_algo.replay_buffer.rewards[batch.indices]
        assert np.abs(stale - predicted).max() > 1e-3


def test_sampled_rewards_of_dict_observations(tmp_path):
    venv = make_venv(env=PRIVILEGED)
    trainer = make_trainer("S2PGGAIL", "S2PGSAC", tmp_path, venv, policy="MultiInputPolicy")
    trainer.train(128)
    batch, predicted = sampled_and_predicted(trainer)
    assert set(batch.observations) == {"observation", "privileged"}
    np.testing.assert_array_equal(batch.rewards.numpy().flatten(), predicted)


def test_terminations_are_dones_of_the_sampled_rewards(tmp_path):
    venv = DummyVecEnv([lambda: AnyAction(BOX, length=EPISODE)])
    trainer = make_trainer(GAIL, "S2PGSAC", tmp_path, venv, reward_net=SeesAll(venv))
    trainer.train(64)
    batch, predicted = sampled_and_predicted(trainer)
    assert batch.dones.any()
    np.testing.assert_array_equal(batch.rewards.numpy().flatten(), predicted)


def test_rewards_of_the_environment_do_not_leak_through_vec_normalize(tmp_path):
    # SB3 stores what VecNormalize says is the original reward: the environment's, not the discriminator's
    venv = VecNormalize(two_actions())
    trainer = make_trainer(GAIL, "S2PGSAC", tmp_path, venv, reward_net=SeesAll(venv))
    trainer.train(64)
    batch, predicted = sampled_and_predicted(trainer)
    np.testing.assert_array_equal(batch.rewards.numpy().flatten(), predicted)
    assert np.abs(batch.observations.numpy()).max() > 1


def test_reward_function_belongs_to_the_environment_and_not_to_the_data(tmp_path):
    trainer = make_trainer("S2PGGAIL", "S2PGSAC", tmp_path)
    trainer.train(64)
    model = trainer.gen_algo
    assert model.replay_buffer.reward_fn == trainer.reward_train.predict_processed
    assert pickle.loads(pickle.dumps(model.replay_buffer)).reward_fn is None
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    model.load_replay_buffer(tmp_path / "buffer.pkl")
    assert model.replay_buffer.reward_fn == trainer.reward_train.predict_processed
    # Fine-tuned on the rewards of the task
    model.set_env(make_venv())
    assert model.replay_buffer.reward_fn is None
    batch = model.replay_buffer.sample(8)
    np.testing.assert_array_equal(batch.rewards.numpy().flatten(), model.replay_buffer.rewards[batch.indices])
    model.replay_buffer.reward_fn = lambda obs, acts, next_obs, dones: acts[:, 0]
    batch = model.replay_buffer.sample(8)
    np.testing.assert_array_equal(batch.rewards.numpy(), model.policy.unscale_action(batch.actions.numpy()))


@pytest.mark.parametrize("generator", GENERATORS)
def test_rewards_of_the_environment_change_nothing(generator, tmp_path):
    results = []
    for factor in (1.0, -100.0):
        venv = two_actions()
        for env in venv.envs:
            step = env.step
            env.step = lambda action, step=step, factor=factor: (lambda o, r, *rest: (o, factor * r, *rest))(*step(action))
        trainer = make_trainer("S2PGGAIL", generator, tmp_path, venv)
        trainer.train(128)
        results.append(weights(trainer))
    for name, value in results[0].items():
        assert th.equal(value, results[1][name]), name


# Who sees what


def test_each_sees_its_own_part_of_a_box(tmp_path):
    venv = make_venv(env="Pendulum-v1")
    subsets = {"actor_observation": [0, 1], "critic_observation": [0, 2]}
    trainer = make_trainer("S2PGGAIL", "S2PGPPO", tmp_path, venv, policy_kwargs=subsets, discriminator_observation=[2, 1])
    trainer.train(64)
    obs = np.array([[0.1, 0.2, 3.0]] * 4, dtype=np.float32)
    obs[np.arange(1, 4), np.arange(3)] += 0.5  # rows 1, 2, 3 change one entry each
    tensor = th.as_tensor(obs)
    acts = np.zeros((4, 1), dtype=np.float32)
    changes = {
        "policy": trainer.policy.predict(obs, deterministic=True)[0].flatten(),
        "critic": trainer.policy.predict_values(tensor).detach().numpy().flatten(),
        "discriminator": trainer.reward_train.predict_processed(obs, acts, obs, np.zeros(4)),
    }
    seen = {who: [bool(values[row] != values[0]) for row in (1, 2, 3)] for who, values in changes.items()}
    assert seen == {"policy": [True, True, False], "critic": [True, False, True], "discriminator": [False, True, True]}
    # The net is given what was selected, in that order
    assert trainer._reward_net.net.mlp[0].in_features == 2 + 1
    np.testing.assert_array_equal(trainer._reward_net.subset(tensor)[0], [np.float32(3.0), np.float32(0.2)])


@pytest.mark.parametrize("generator", GENERATORS)
def test_dict_observations(generator, tmp_path):
    venv = make_venv(env=PRIVILEGED)
    kwargs = {"policy": "MultiInputPolicy", "discriminator_observation": ["privileged"]}
    trainer = make_trainer("S2PGGAIL", generator, tmp_path, venv, **kwargs)
    trainer.train(128)
    # At deployment that sensor does not exist
    trainer.policy.predict({"observation": np.zeros((1, 3), dtype=np.float32)})
    # imitation stores what happened, in one array: the keys in the order of the space
    transitions = trainer._gen_replay_buffer._buffer._arrays
    assert transitions["obs"].shape[1] == 3 + 3
    net = trainer._reward_net
    flat = th.as_tensor(transitions["obs"][:5])
    assert th.equal(net.subset(flat), flat[:, 3:]) and net.net.mlp[0].in_features == 3 + 1
    assert not flat[:, 2].any() and flat[:, 5].all()  # the velocity: hidden, and privileged


def test_reward_of_airl_without_shaping(tmp_path):
    space, actions = make_venv(env="MountainCarContinuous-v0").observation_space, make_venv().action_space
    base = BasicRewardNet(space, actions)
    shaped = BasicShapedRewardNet(space, actions)
    for net, unshaped in ((base, base), (shaped, shaped.base)):
        trainer = make_trainer("S2PGAIRL", "S2PGPPO", tmp_path, reward_net=net, discriminator_observation=[0, 1])
        trainer.train(64)
        transition = (np.ones((2, 3)), np.ones((2, 1)), np.zeros((2, 3)), np.zeros(2))
        transition = [value.astype(np.float32) for value in transition]
        part = [transition[0][:, :2], transition[1], transition[2][:, :2], transition[3]]
        for ours, theirs in ((trainer.reward_train, net), (trainer.reward_test, unshaped)):
            np.testing.assert_array_equal(ours.predict_processed(*transition), theirs.predict_processed(*part))


@pytest.mark.parametrize("trainer_name", ["S2PGGAIL", "S2PGAIRL"])
def test_discrete_actions(trainer_name, tmp_path):
    venv = DummyVecEnv([lambda: AnyAction(spaces.Discrete(3), length=EPISODE, truncate=True)] * 2)
    trainer = make_trainer(trainer_name, "S2PGPPO", tmp_path, venv)
    trainer.train(128)
    with pytest.raises(ValueError, match=r"demonstrations\[0\]: the action of step 0, 3, lies outside"):
        trainer.set_demonstrations([dataclasses.replace(demo, acts=demo.acts * 0 + 3) for demo in demonstrations(venv)])


def test_images_that_are_transposed_by_the_algorithm_are_refused():
    venv = DummyVecEnv([Images])
    model = S2PGSAC("CnnPolicy", venv, buffer_size=10, device="cpu", policy_kwargs={"state_dim": 2})
    with pytest.raises(ValueError, match="channels last"):
        model.set_env(RewardVecEnvWrapper(venv, lambda obs, acts, next_obs, dones: np.zeros(1)))
    model.set_env(RewardVecEnvWrapper(VecTransposeImage(venv), lambda obs, acts, next_obs, dones: np.zeros(1)))
    assert model.replay_buffer.reward_fn is not None


def test_dict_observations_survive_flattening(tmp_path):
    venv = make_venv(env=PRIVILEGED)
    trainer = make_trainer("S2PGGAIL", "S2PGPPO", tmp_path, venv, policy="MultiInputPolicy")
    trainer.venv.seed(3)
    obs = trainer.venv_train.reset()
    venv.seed(3)
    assert trainer.venv_train.observation_space == venv.observation_space
    for key, value in venv.reset().items():
        np.testing.assert_array_equal(obs[key], value)
        assert obs[key].dtype == value.dtype
    trainer.venv_train.reset()
    for _ in range(EPISODE):
        *_, dones, infos = trainer.venv_train.step(np.zeros((2, 1), dtype=np.float32))
    assert dones.all() and set(infos[0]["terminal_observation"]) == set(obs)
    # What imitation has kept of it stays flat
    (first, _), _ = trainer.venv_buffering.pop_trajectories()
    np.testing.assert_array_equal(first.obs[-1], trainer._layout.flatten(infos[0]["terminal_observation"]))


# The discriminator's loss and schedules


@pytest.mark.parametrize("minibatch", [16, 8])
def test_entropy_bonus(minibatch, tmp_path):
    coefficient = 0.7
    venv = make_venv()
    net = BasicRewardNet(venv.observation_space, venv.action_space)
    kwargs = {"disc_entropy_coef": coefficient, "demo_minibatch_size": minibatch, "disc_opt_kwargs": {"lr": 0.0}}
    trainer = make_trainer("S2PGGAIL", "S2PGPPO", tmp_path, venv, reward_net=net, **kwargs)
    trainer.train_gen()
    (batch,) = make_batches(trainer)
    expert, generator = batch
    trainer.train_disc(expert_samples=expert, gen_samples=generator)
    gradients = [parameter.grad.clone() for parameter in net.parameters()]

    obs, acts, next_obs, dones = (np.concatenate([expert[k], generator[k]]) for k in ("obs", "acts", "next_obs", "dones"))
    logits = net(*net.preprocess(obs, acts, next_obs, dones))
    labels = th.cat([th.ones(16), th.zeros(16)])
    loss = th.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    loss = loss - coefficient * th.distributions.Bernoulli(logits=logits).entropy().mean()
    for ours, parameter in zip(gradients, th.autograd.grad(loss, list(net.parameters())), strict=True):
        np.testing.assert_allclose(ours, parameter, rtol=1e-4, atol=1e-7)


def make_batches(trainer):
    expert = trainer._next_expert_batch()
    sample = trainer._gen_replay_buffer.sample(16)
    generator = {field.name: getattr(sample, field.name) for field in dataclasses.fields(sample)}
    return [({**expert, **{k: np.asarray(expert[k]) for k in ("obs", "acts", "next_obs", "dones")}}, generator)]


def test_entropy_gradient():
    logits = th.linspace(-6, 6, 13, dtype=th.float64, requires_grad=True)
    (expected,) = th.autograd.grad(th.distributions.Bernoulli(logits=logits).entropy().sum(), logits)
    np.testing.assert_allclose(entropy_gradient(logits.detach()), expected, atol=1e-12)


@pytest.mark.parametrize("interval, updates", [(1, [2, 4, 6, 8, 10]), (3, [2, 2, 2, 4, 4])])
def test_discriminator_schedule(interval, updates, tmp_path):
    trainer = make_trainer("S2PGGAIL", "S2PGPPO", tmp_path, disc_update_interval=interval)
    seen = []
    trainer.train(5 * 64, callback=lambda _: seen.append(trainer._disc_step))
    assert seen == updates


@pytest.mark.parametrize("generator", ["S2PGPPO", "S2PGSAC"])
def test_learning_rate_schedule_over_the_whole_training(generator, tmp_path):
    kwargs = {"generator_kwargs": {"learning_rate": lambda progress: 1e-3 * progress}}
    trainer = make_trainer("S2PGGAIL", generator, tmp_path, **kwargs)
    optimizer = trainer.policy.optimizer if generator == "S2PGPPO" else trainer.gen_algo.critic.optimizer
    rates = []
    trainer.train(4 * 64, callback=lambda _: rates.append(optimizer.param_groups[0]["lr"]))
    np.testing.assert_allclose(rates, [0.75e-3, 0.5e-3, 0.25e-3, 0], atol=1e-3 / 64)
    rates.clear()
    trainer.train(2 * 64, callback=lambda _: rates.append(optimizer.param_groups[0]["lr"]), schedule_timesteps=8 * 64)
    np.testing.assert_allclose(rates, [0.375e-3, 0.25e-3], atol=1e-3 / 64)
    # Within imitation's own GAIL each round is a training of its own
    venv = make_venv()
    net = BasicRewardNet(venv.observation_space, venv.action_space)
    stock = make_trainer(GAIL, generator, tmp_path, venv, reward_net=net, **kwargs)
    stock.train(64)
    optimizer = stock.policy.optimizer if generator == "S2PGPPO" else stock.gen_algo.critic.optimizer
    assert optimizer.param_groups[0]["lr"] == 0


# Log-probabilities of AIRL


class Clock(StateKernel):
    """Counts the steps of an episode in hundredths, starting from 0.5."""

    def forward(self, inputs, states):
        return states + 0.01, None

    def initial_state(self, n):
        return th.full((n, self.state_dim), 0.5)


@pytest.mark.parametrize("generator", ["S2PGPPO", "S2PGSAC"])
def test_log_probabilities_of_airl(generator, tmp_path):
    venv = two_actions()
    demos = demonstrations(venv, length=4) + demonstrations(venv, n_episodes=2, length=6, seed=1)
    kernel = {
        "state_kernel_class": Clock,
        "state_noise_kwargs": {"log_std_init": -9.0, "log_std_min": -9.0, "log_std_max": -8.9},
    }
    if generator == "S2PGSAC":
        kernel["state_noise_kwargs"]["std_type"] = "constant"
    kwargs = {"policy_kwargs": kernel, "demo_minibatch_size": 8, "allow_variable_horizon": True}
    trainer = make_trainer("S2PGAIRL", generator, tmp_path, venv, demos, **kwargs)
    trainer.train(64)
    expert = trainer._next_expert_batch()
    sample = trainer._gen_replay_buffer.sample(16)
    gen = {field.name: getattr(sample, field.name) for field in dataclasses.fields(sample)}
    batches = list(trainer._make_disc_train_batches(expert_samples=expert, gen_samples=gen))
    assert len(batches) == 2

    # Where each of the expert's rows lies, by its observation
    policy = trainer.policy
    for number, batch in enumerate(batches):
        rows = range(8 * number, 8 * number + 8)
        expected = []
        for row in rows:
            episode, step = next(
                (demo, step)
                for demo in demos
                for step in range(len(demo))
                if np.array_equal(demo.obs[step], expert["obs"][row])
            )
            previous = np.zeros(2) if step == 0 else policy.scale_action(episode.acts[step - 1])
            expected.append(log_prob_by_hand(generator, policy, episode.obs[step], episode.acts[step], step, previous))
        for row in rows:
            step = round(float(gen["infos"][row][STATE][0] - 0.5) * 100)
            previous = gen["infos"][row][STATE][3:]
            assert 0 <= step < EPISODE and (step > 0 or not previous.any())
            expected.append(log_prob_by_hand(generator, policy, gen["obs"][row], gen["acts"][row], step, previous))
        np.testing.assert_allclose(batch["log_policy_act_prob"], expected, rtol=1e-2, atol=1e-2)


def log_prob_by_hand(generator, policy, obs, action, step, previous_action):
    state = np.concatenate([np.full(3, 0.5 + 0.01 * step), previous_action])
    obs, state = (th.tensor(value[None], dtype=th.float32) for value in (obs, state))
    with th.no_grad():
        if generator == "S2PGPPO":
            _, distribution, *_ = policy._act(obs, state)
            mean, std = distribution.distribution.mean, distribution.distribution.stddev
            density = th.distributions.Normal(mean, std).log_prob(th.tensor(action))
            return density.sum().item()
        mean, log_std, *_ = policy.actor.get_action_dist_params(obs, state)
        scaled = th.as_tensor(policy.scale_action(action)).clamp(-1 + 1e-6, 1 - 1e-6)
        density = th.distributions.Normal(mean, log_std.exp()).log_prob(th.atanh(scaled))
        return (density - th.log(1 - scaled**2 + 1e-6)).sum().item()


def test_states_of_the_generator_are_those_that_it_acted_with(tmp_path):
    venv = make_venv()
    trainer = make_trainer("S2PGAIRL", "S2PGPPO", tmp_path, venv, gen_train_timesteps=64)
    trainer.train_gen()
    buffer = trainer.gen_algo.rollout_buffer
    states = {tuple(state) for state in buffer.states.reshape(-1, buffer.states.shape[-1])}
    stored = trainer._gen_replay_buffer._buffer._arrays["infos"]
    assert {tuple(info[STATE]) for info in stored} == states


def test_states_along_demonstrations_of_different_length():
    venv = two_actions()
    policy = make_generator("S2PGPPO", venv).policy
    demos = [demonstrations(venv, 1, length, seed)[0] for seed, length in enumerate((3, 6, 2))]
    rolled = roll_states(policy, demos, deterministic=True)
    for demo, states in zip(demos, rolled, strict=True):
        state = policy.initial_state()
        for step in range(len(demo)):
            np.testing.assert_allclose(states[step], state[0], rtol=1e-5, atol=1e-6)
            _, state = policy.predict(demo.obs[step : step + 1], state=state, deterministic=True)
            state[:, 3:] = policy.scale_action(demo.acts[step : step + 1])


# Save and resume


def test_training_goes_on_in_a_new_process(tmp_path):
    runs = ["S2PGGAIL_S2PGPPO", "S2PGGAIL_S2PGSAC", "S2PGAIRL_S2PGPPO"]
    half, uninterrupted = {}, {}
    for run in runs:
        trainer = make_trainer(*run.split("_"), tmp_path / "logs")
        trainer.train(192)
        trainer.save(tmp_path / f"{run}.zip")
        half[run] = weights(trainer)
        uninterrupted[run] = second_half(trainer)

    command = [sys.executable, Path(__file__).with_name("adversarial.py"), tmp_path, *runs]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for run in runs:
        resumed = th.load(tmp_path / f"{run}.weights", weights_only=True)
        assert resumed.keys() == uninterrupted[run].keys()
        for name, value in resumed.items():
            assert th.equal(value, uninterrupted[run][name]), (run, name)
        for part in ("discriminator", "policy"):
            changed = [not th.equal(half[run][name], value) for name, value in resumed.items() if name.startswith(part)]
            assert any(changed), (run, part)


def test_counters_and_samples_are_resumed(tmp_path):
    trainer = make_trainer("S2PGGAIL", "S2PGSAC", tmp_path)
    trainer.train(192)
    trainer.save(tmp_path / "new_folder" / "trainer.zip")
    other = make_trainer("S2PGGAIL", "S2PGSAC", tmp_path)
    other.resume(tmp_path / "new_folder" / "trainer.zip")
    assert (other._global_step, other._disc_step, other._horizon) == (3, 2, EPISODE)
    assert other.gen_algo.num_timesteps == 192 and other.gen_algo.schedule_timesteps is None
    assert other.gen_algo.replay_buffer.size() == trainer.gen_algo.replay_buffer.size()
    assert other.gen_algo.replay_buffer.reward_fn == other.reward_train.predict_processed
    for name, array in trainer._gen_replay_buffer._buffer._arrays.items():
        if name != "infos":
            np.testing.assert_array_equal(other._gen_replay_buffer._buffer._arrays[name], array)
    assert list((tmp_path / "new_folder").iterdir()) == [tmp_path / "new_folder" / "trainer.zip"]


def test_what_cannot_be_resumed_changes_nothing(tmp_path):
    saved = {}
    for name, kwargs in {
        "good": {},
        "other net": {"reward_net": BasicRewardNet(make_venv().observation_space, make_venv().action_space)},
        "other optimizer": {"disc_opt_cls": th.optim.SGD},
        "other environments": {"venv": make_venv(n_envs=1)},
        "other observations": {"venv": make_venv(env="MountainCarContinuous-v0")},
    }.items():
        saved[name] = tmp_path / f"{name}.zip"
        trainer = make_trainer("S2PGGAIL", "S2PGPPO", tmp_path, **kwargs)
        trainer.train(64)
        trainer.save(saved[name])
    for name, generator in (("S2PGGAIL", "S2PGSAC"), ("S2PGAIRL", "S2PGPPO")):
        saved[f"{name} {generator}"] = tmp_path / f"{name}_{generator}.zip"
        make_trainer(name, generator, tmp_path).save(saved[f"{name} {generator}"])
    content = saved["good"].read_bytes()
    saved["cut"] = tmp_path / "cut.zip"
    saved["cut"].write_bytes(content[: len(content) // 2])
    saved["damaged"] = tmp_path / "damaged.zip"
    position = content.index(b"reward_net") if b"reward_net" in content else len(content) // 2
    saved["damaged"].write_bytes(content[:position] + bytes([content[position] ^ 255]) + content[position + 1 :])
    saved["text"] = tmp_path / "text.zip"
    saved["text"].write_text("not a trainer")
    saved["model"] = tmp_path / "model.zip"
    trainer.gen_algo.save(saved["model"])
    saved["other zip"] = tmp_path / "other.zip"
    with zipfile.ZipFile(saved["other zip"], "w") as file:
        file.writestr("about.json", "{}")

    trainer = make_trainer("S2PGGAIL", "S2PGPPO", tmp_path)
    before, gen_algo, optimizer = weights(trainer), trainer.gen_algo, trainer._disc_opt.state_dict()
    for name, path in saved.items():
        if name == "good":
            continue
        with pytest.raises(ValueError, match=path.name):
            trainer.resume(path)
        assert trainer.gen_algo is gen_algo and trainer._global_step == 0, name
        assert trainer._disc_opt.state_dict() == optimizer, name
        assert all(th.equal(value, before[key]) for key, value in weights(trainer).items()), name
    with pytest.raises(FileNotFoundError):
        trainer.resume(tmp_path / "missing.zip")
    trainer.resume(saved["good"])
    assert trainer._global_step == 1


# Bad input


@pytest.mark.parametrize("trainer_name", ["S2PGGAIL", "S2PGAIRL"])
def test_demonstrations_that_do_not_fit(trainer_name, tmp_path):
    venv = make_venv()
    good = demonstrations(venv)
    other = demonstrations(make_venv(env="MountainCarContinuous-v0"))
    wide = demonstrations(two_actions())
    far = [dataclasses.replace(good[0], acts=good[0].acts + 10), *good[1:]]
    broken = [good[0], dataclasses.replace(good[1], obs=np.where(np.arange(EPISODE + 1)[:, None] == 4, np.nan, good[1].obs))]
    for demos, message in (
        ([], "demonstrations"),
        (demonstrations(venv, length=1), r"demonstrations\[0\] has 1 step.*at least two"),
        (other, r"demonstrations\[0\]: observations have the shape \(2,\).*\(3,\)"),
        (wide, r"demonstrations\[0\]: actions have the shape \(2,\).*\(1,\)"),
        (far, r"demonstrations\[0\]: the action of step 0.*outside"),
        (broken, r"demonstrations\[1\]: observations.*not a finite number"),
        (good + demonstrations(venv, length=5), "different length.*allow_variable_horizon"),
        (demonstrations(venv, length=2 * EPISODE), f"episodes of {2 * EPISODE} steps, but venv ends them after {EPISODE}"),
    ):
        with pytest.raises(ValueError, match=message):
            make_trainer(trainer_name, "S2PGPPO", tmp_path, venv, demos)
    make_trainer(
        trainer_name, "S2PGPPO", tmp_path, venv, good + demonstrations(venv, length=5), allow_variable_horizon=True
    ).train(64)
    # A part of an episode has no length of its own
    make_trainer(trainer_name, "S2PGPPO", tmp_path, venv, good + demonstrations(venv, length=5, terminal=False))


def test_transitions_as_demonstrations(tmp_path):
    venv = make_venv()
    transitions = flatten_trajectories(demonstrations(venv))
    make_trainer("S2PGGAIL", "S2PGPPO", tmp_path, venv, transitions).train(64)
    make_trainer("S2PGAIRL", "S2PGPPO", tmp_path, venv, transitions).train(64)
    with pytest.raises(ValueError, match="shuffled"):
        make_trainer("S2PGAIRL", "S2PGPPO", tmp_path, venv, transitions[::2])
    with pytest.raises(ValueError, match="lack next_obs"):
        minimal = TransitionsMinimal(obs=transitions.obs, acts=transitions.acts, infos=transitions.infos)
        make_trainer("S2PGGAIL", "S2PGPPO", tmp_path, venv, minimal)
    with pytest.raises(ValueError, match=r"observations have the shape \(2,\)"):
        make_trainer(
            "S2PGGAIL",
            "S2PGPPO",
            tmp_path,
            venv,
            flatten_trajectories(demonstrations(make_venv(env="MountainCarContinuous-v0"))),
        )


def test_arguments_that_do_not_fit(tmp_path):
    venv = make_venv()
    for kwargs, message in (
        ({"gen_train_timesteps": 100}, "gen_train_timesteps=100 must be a multiple of 64"),
        ({"disc_update_interval": 0}, "disc_update_interval=0"),
        ({"disc_entropy_coef": float("nan")}, "disc_entropy_coef=nan"),
        ({"discriminator_observation": [5]}, r"discriminator_observation=\[5\].*do not exist"),
        ({"discriminator_observation": ["privileged"]}, "discriminator_observation"),
        ({"discriminator_observation": [0], "reward_net": SeesAll(venv)}, "reward_net was built for"),
        ({"reward_net": SeesAll(make_venv(env="MountainCarContinuous-v0"))}, "reward_net was built for"),
        ({"discriminator_observation": [2, 1, 0], "reward_net": NormalizedRewardNet(SeesAll(venv), RunningNorm)}, "wrapper"),
        ({"demo_batch_size": 1000}, "smaller than batch size"),
        ({"venv": VecNormalize(make_venv())}, "VecNormalize"),
    ):
        with pytest.raises(ValueError, match=message):
            make_trainer("S2PGGAIL", "S2PGPPO", tmp_path, **{"venv": venv, **kwargs})
    arguments = {"demonstrations": demonstrations(venv), "venv": venv, "demo_batch_size": 16}
    with pytest.raises(ValueError, match="built for 1 environments, venv has 2"):
        S2PGGAIL(gen_algo=make_generator("S2PGPPO", make_venv(n_envs=1)), **arguments)
    with pytest.raises(ValueError, match="PPO has no internal state"):
        S2PGGAIL(gen_algo=PPO("MlpPolicy", venv, device="cpu"), **arguments)
    with pytest.raises(ValueError, match="total_timesteps=10 is less than one round of gen_train_timesteps=64"):
        make_trainer("S2PGGAIL", "S2PGPPO", tmp_path).train(10)


def test_episodes_of_another_length_than_those_of_the_demonstrations(tmp_path):
    venv = make_venv()
    trainer = make_trainer("S2PGGAIL", "S2PGPPO", tmp_path, venv, demonstrations(venv, n_episodes=4, length=5))
    with pytest.raises(ValueError, match="different length"):
        trainer.train(64)


def test_without_imitation():
    code = (
        "import sys; sys.modules['imitation'] = None\n"
        "import sb3_s2pg\n"
        "from sb3_s2pg import *\n"
        "for name in ('S2PGGAIL', 'S2PGAIRL'):\n"
        "    try: getattr(sb3_s2pg, name)\n"
        "    except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('pip install "sb3-s2pg[imitation]"') == done.stdout.count("imitation==1.0.1") == 2


# A trained model as expert


@pytest.mark.parametrize("generator", GENERATORS)
def test_a_model_with_memory_is_an_expert_of_imitation(generator, tmp_path):
    venv = make_venv()
    expert = make_generator(generator, venv)
    episodes = rollout(expert, venv, make_sample_until(min_episodes=4), rng=np.random.default_rng(0), unwrap=False)
    make_trainer("S2PGGAIL", "S2PGPPO", tmp_path, venv, episodes).train(64)
