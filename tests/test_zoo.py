"""RL Zoo's commands with S2PG's algorithms and tasks, run as a user would run them, with a small budget."""

import os
import shutil
import subprocess
import sys
import zipfile
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium as gym
import numpy as np
import optuna
import pytest
import yaml
from gymnasium import make, spaces
from rl_zoo3 import hyperparams_opt

from sb3_s2pg import S2PGPPO, S2PGSAC, S2PGTD3, S2PGTRPO
from sb3_s2pg.envs import list_tasks
from sb3_s2pg.zoo.hyperparams import convert_memory, merged

ALGORITHMS = {"s2pg_sac": S2PGSAC, "s2pg_td3": S2PGTD3, "s2pg_ppo": S2PGPPO, "s2pg_trpo": S2PGTRPO}
ON_POLICY = ("s2pg_ppo", "s2pg_trpo")
TASKS = {algo: "CartPoleNoVel-v1" if algo in ON_POLICY else "PendulumNoVel-v1" for algo in ALGORITHMS}
# Steps of training, and of an evaluation interval: with the settings of the hyperparameter files
BUDGET = {algo: (2048, 1024) if algo in ON_POLICY else (400, 200) for algo in ALGORITHMS}
ROOT = Path(__file__).parent.parent
HEADLESS = {"SDL_VIDEODRIVER": "dummy", "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}


def zoo(folder: Path, *arguments: object, fails: bool = False) -> str:
    """Run a command in a folder and return what it printed."""
    command = [sys.executable, "-m", "sb3_s2pg.zoo", *map(str, arguments)]
    environment = {**os.environ, **HEADLESS, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


class Trained:
    """An agent that ``train`` has trained, in the folder layout of RL Zoo."""

    def __init__(self, folder: Path, algo: str):
        self.folder, self.algo, self.env = folder, algo, TASKS[algo]
        steps, every = BUDGET[algo]
        self.printed = zoo(
            folder,
            *("train", "--algo", algo, "--env", self.env, "-n", steps, "--seed", 0, "--device", "cpu", "--progress"),
            *("--eval-freq", every, "--eval-episodes", 2, "--save-freq", every, "--tensorboard-log", "runs"),
        )
        self.logs = folder / "logs" / algo / f"{self.env}_1"
        self.agent = self.logs / f"{self.env}.zip"
        self.arguments = ("--algo", algo, "--env", self.env, "-f", "logs")


@pytest.fixture(scope="module", params=list(ALGORITHMS))
def trained(request, tmp_path_factory):
    return Trained(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def trained_sac(tmp_path_factory):
    return Trained(tmp_path_factory.mktemp("sac"), "s2pg_sac")


def test_train_uses_the_file_of_this_package(trained):
    assert f"Loading hyperparameters from: {ROOT / 'zoo_configs' / trained.algo}.yml" in trained.printed
    assert "Overriding environment" not in trained.printed
    model = ALGORITHMS[trained.algo].load(trained.agent, device="cpu")
    assert model.num_timesteps == BUDGET[trained.algo][0]
    evaluations = np.load(trained.logs / "evaluations.npz")
    assert list(evaluations["timesteps"]) == [BUDGET[trained.algo][1], BUDGET[trained.algo][0]]
    assert len(list(trained.logs.glob("rl_model_*_steps.zip"))) == 2
    assert list((trained.folder / "runs" / trained.env).rglob("events.out.tfevents*"))


def test_enjoy_carries_the_state_and_resets_it_at_episode_ends(trained):
    """The printed returns are those of a loop by hand that carries it."""
    from rl_zoo3 import create_test_env, get_saved_hyperparams

    steps, arguments = 450, ("--no-render", "--seed", 3, "--device", "cpu")
    printed = zoo(trained.folder, "enjoy", *trained.arguments, "-n", steps, *arguments)
    returns = [float(line.split(":")[1]) for line in printed.splitlines() if line.startswith("Episode Reward:")]

    hyperparams, stats = get_saved_hyperparams(str(trained.logs / trained.env), test_mode=True)
    env = create_test_env(trained.env, stats_path=stats, seed=3, should_render=False, hyperparams=hyperparams)
    model = ALGORITHMS[trained.algo].load(trained.agent, env=env, seed=3, device="cpu")
    expected, total = [], 0.0
    obs, state = env.reset(), None
    for _ in range(steps):
        action, state = model.predict(obs, state=state, deterministic=True)
        obs, reward, done, _ = env.step(action)
        total += reward[0]
        if done[0]:
            expected.append(total)
            total, state = 0.0, None
    assert len(expected) >= 2 and returns == pytest.approx(expected, abs=0.006)


def test_record_video(trained):
    zoo(trained.folder, "record_video", *trained.arguments, "-n", 100, "--load-best")
    (video,) = (trained.logs / "videos").glob("best-model-*.mp4")
    assert video.stat().st_size > 1000


def test_continue_training(trained):
    steps = BUDGET[trained.algo][1]
    task = ("--algo", trained.algo, "--env", trained.env, "-i", trained.agent, "--device", "cpu")
    printed = zoo(trained.folder, "train", *task, "-n", steps, "-f", "continued", "--eval-freq", -1)
    assert "Loading pretrained agent" in printed
    (agent,) = (trained.folder / "continued" / trained.algo).glob(f"*/{trained.env}.zip")
    before, after = (ALGORITHMS[trained.algo].load(path, device="cpu") for path in (trained.agent, agent))
    assert after._n_updates > before._n_updates
    assert after.policy.state_dim == before.policy.state_dim


def test_training_goes_on_with_the_replay_buffer_in_sub_processes_and_checkpoints_act(tmp_path):
    task = ("--algo", "s2pg_sac", "--env", "PendulumNoVel-v1")
    train = ("train", *task, "--device", "cpu", "--vec-env", "subproc", "--save-replay-buffer", "--eval-freq", -1)
    few = ("-params", "n_envs:2", "buffer_size:1000", "learning_starts:50")
    zoo(tmp_path, *train, "-n", 300, "--save-freq", 100, *few)
    logs = tmp_path / "logs" / "s2pg_sac" / "PendulumNoVel-v1_1"
    printed = zoo(tmp_path, *train, "-n", 200, "-i", logs / "PendulumNoVel-v1.zip", "-f", "continued", *few)
    assert "Loading replay buffer" in printed
    agent = tmp_path / "continued" / "s2pg_sac" / "PendulumNoVel-v1_1" / "PendulumNoVel-v1.zip"
    model = S2PGSAC.load(agent, device="cpu")
    model.load_replay_buffer(agent.with_name("replay_buffer.pkl"))
    assert model.replay_buffer.n_envs == 2 and model.replay_buffer.size() == 250  # of each environment, both trainings
    printed = zoo(tmp_path, "enjoy", *task, "-f", "logs", "--load-checkpoint", 200, "--no-render", "-n", 210)
    assert "rl_model_200_steps.zip" in printed and printed.count("Episode Reward") == 1


def test_a_study_in_a_journal(tmp_path):
    task = ("train", "--algo", "s2pg_td3", "--env", "PendulumNoVel-v1", "-n", 150, "--device", "cpu")
    search = ("-optimize", "--n-trials", 1, "--n-evaluations", 1, "--eval-episodes", 1, "--no-optim-plots")
    study = ("--storage", "study.log", "--study-name", "memory")
    # Older versions of RL Zoo have no journals
    if hasattr(hyperparams_opt, "HYPERPARAMS_CONVERTER"):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda seed: zoo(tmp_path, *task, *search, *study, "--seed", seed), (0, 1)))
        backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log"))
        trials = optuna.load_study(study_name="memory", storage=optuna.storages.JournalStorage(backend)).trials
        assert len(trials) == 2
    else:
        printed = zoo(tmp_path, *task, *search, *study, fails=True)
        assert "takes databases only" in printed and "Traceback" not in printed


def test_plot_train(trained):
    zoo(trained.folder, "plot_train", "-a", trained.algo, "-e", trained.env, "-f", "logs", "-w", 1)


def test_plots_of_several_runs(trained_sac, tmp_path):
    # RL Zoo's plot_from_file wants more than one run
    for number in (1, 2):
        shutil.copytree(trained_sac.logs, tmp_path / "logs" / "s2pg_sac" / f"PendulumNoVel-v1_{number}")
    runs = ("-a", "s2pg_sac", "-e", "PendulumNoVel-v1", "-f", "logs")
    printed = zoo(tmp_path, "all_plots", *runs, "--no-display", "-o", "results")
    last = np.load(trained_sac.logs / "evaluations.npz")["results"][-1].mean()
    assert f"|PendulumNoVel-v1|{last:.0f} +/- 0|" in printed.replace(" |", "|")
    zoo(tmp_path, "plot_from_file", "-i", "results.pkl")


def test_record_training_in_sub_processes_that_know_the_algorithm(trained_sac, monkeypatch, tmp_path):
    """It starts ``record_video`` once per model, and joins what they wrote with ffmpeg."""
    import imageio_ffmpeg

    (tmp_path / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    # RL Zoo says `python`, which need not be the one that runs
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    zoo(trained_sac.folder, "record_training", *trained_sac.arguments, "-n", 60, "--deterministic")
    names = {path.name.split("-s2pg_sac")[0] for path in (trained_sac.logs / "videos").glob("*.mp4")}
    assert {"final-model", "best-model", "checkpoint-200", "checkpoint-400", "training.mp4"} <= names


def test_benchmark_in_sub_processes_that_know_the_algorithm(trained_sac):
    arguments = ("--log-dir", "logs", "--benchmark-dir", "benchmark", "--no-hub", "--test-mode", "-n", 450)
    printed = zoo(trained_sac.folder, "benchmark", *arguments)
    assert "Evaluating s2pg_sac on PendulumNoVel-v1" in printed and "2 Episodes" in printed
    assert "|s2pg_sac|PendulumNoVel-v1|" in (trained_sac.folder / "benchmark" / "benchmark.md").read_text().replace(" ", "")


def assert_sampled(model, trial):
    """The model is made of what the trial has sampled."""
    policy, sampled = model.policy, trial.params
    assert policy.state_dim == sampled["state_dim"]
    assert policy.state_kernel_kwargs == {"max_time_constant": sampled["max_time_constant"]}
    if "kernel_lr_ratio" in sampled:  # not of S2PGTRPO
        assert policy.kernel_lr_ratio == sampled["kernel_lr_ratio"]
    if "state_log_std_init" in sampled:  # not of S2PGTD3
        assert policy.state_noise_kwargs["log_std_init"] == sampled["state_log_std_init"]


@pytest.mark.parametrize("algo", list(ALGORITHMS))
def test_optimize_hyperparameters_in_several_processes_on_one_study(algo, tmp_path):
    """All take part in the study, what they sample reaches the models, and a trial can be trained."""
    task = ("train", "--algo", algo, "--env", TASKS[algo], "-n", BUDGET[algo][1], "--device", "cpu")
    study = ("--storage", f"sqlite:///{tmp_path / 'study.db'}", "--study-name", "memory")
    search = ("-optimize", "--n-trials", 1, "--n-evaluations", 1, "--eval-episodes", 1, "--pruner", "none")
    search += ("--no-optim-plots", "--optimization-log-path", "best")
    with ThreadPoolExecutor(3) as pool:  # the database is not there yet
        list(pool.map(lambda seed: zoo(tmp_path, *task, *study, *search, "--seed", seed), (0, 1, 2)))
    trials = optuna.load_study(study_name="memory", storage=study[1]).trials
    assert [trial.number for trial in trials] == [0, 1, 2]
    finished = [trial for trial in trials if trial.state.name == "COMPLETE"]
    assert finished and all(np.isfinite(trial.value) for trial in finished)
    for trial in finished:
        model = ALGORITHMS[algo].load(tmp_path / "best" / f"trial_{trial.number}" / "best_model.zip", device="cpu")
        assert_sampled(model, trial)
    assert len({trial.params["max_time_constant"] for trial in trials}) == 3

    # Older versions of RL Zoo cannot train a trial
    if hasattr(hyperparams_opt, "HYPERPARAMS_CONVERTER"):
        for number in (0, 1):
            zoo(tmp_path, *task, *study, "--trial-id", number, "--eval-freq", -1, "-f", f"trial{number}")
            (agent,) = (tmp_path / f"trial{number}" / algo).glob(f"*/{TASKS[algo]}.zip")
            model = ALGORITHMS[algo].load(agent, device="cpu")
            assert_sampled(model, trials[number])
        if algo == "s2pg_ppo":  # what the study does not search stays as the file says
            assert model.policy.ortho_init is False


def test_optimization_keeps_the_policy_kwargs_that_it_does_not_search(tmp_path):
    config = {
        "PendulumNoVel-v1": {"policy": "MlpPolicy", "n_timesteps": 150, "policy_kwargs": "dict(use_previous_action=False)"}
    }
    (tmp_path / "mine.yml").write_text(yaml.safe_dump(config))
    task = ("train", "--algo", "s2pg_td3", "--env", "PendulumNoVel-v1", "--device", "cpu", "-conf", "mine.yml")
    study = ("--storage", "sqlite:///study.db", "--study-name", "memory")
    search = ("-optimize", "--n-trials", 1, "--n-evaluations", 1, "--eval-episodes", 1, "--no-optim-plots")
    zoo(tmp_path, *task, *study, *search, "--optimization-log-path", "best")
    model = S2PGTD3.load(tmp_path / "best" / "trial_0" / "best_model.zip", device="cpu")
    assert not model.policy.use_previous_action
    # Nothing has been trained that `enjoy` could take for a run
    assert not list((tmp_path / "logs" / "s2pg_td3").glob("PendulumNoVel-v1_*"))


@pytest.mark.parametrize("kernel", ["gru", "linear"])
def test_sampled_kernels_do_not_get_the_arguments_of_the_one_in_the_file(kernel):
    of_file = {"policy_kwargs": {"state_kernel_kwargs": {"input_gain": 2.0}, "state_noise_kwargs": {"std_type": "fixed"}}}
    sampled = {
        "state_dim": 16,
        "state_kernel": kernel,
        "kernel_lr_ratio": 0.1,
        "max_time_constant": 7.0,
        "state_log_std_init": -3.0,
    }
    policy_kwargs = merged(of_file, convert_memory(sampled))["policy_kwargs"]
    assert policy_kwargs["state_kernel_kwargs"] == {"max_time_constant": 7.0}
    assert policy_kwargs["state_noise_kwargs"] == {"std_type": "fixed", "log_std_init": -3.0}
    S2PGPPO("MlpPolicy", "FirstStepCue20-v0", policy_kwargs=policy_kwargs, device="cpu")


def test_models_that_only_act_have_no_replay_buffer_to_speak_of(trained_sac):
    """RL Zoo's list of off-policy algorithms, whose buffer it does not allocate, lies inside of its functions."""
    load = (
        "import rl_zoo3, sb3_s2pg.zoo\n"
        "for playing in (True, False):\n"
        "    sb3_s2pg.zoo.register(for_playing=playing)\n"
        f"    model = rl_zoo3.ALGOS['s2pg_sac'].load({str(trained_sac.agent)!r}, device='cpu')\n"
        "    print(type(model).__name__, model.replay_buffer.buffer_size)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines() == ["S2PGSAC 1", "S2PGSAC 1000000"]


def test_a_wheel_carries_the_hyperparameter_files(tmp_path):
    # Not in the checkout: what an earlier build has left there would enter the wheel
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "results", "tests"))
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    where = "import sb3_s2pg.zoo; print(*(sb3_s2pg.zoo.default_config(algo) for algo in sb3_s2pg.zoo.ZOO_ALGORITHMS))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(
        [sys.executable, "-c", where], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
    )
    files = done.stdout.split()
    assert [Path(file).parent.parent.parent for file in files] == [tmp_path / "installed"] * len(ALGORITHMS)
    for file, algo in zip(files, ALGORITHMS, strict=True):
        assert Path(file).read_text() == (ROOT / "zoo_configs" / f"{algo}.yml").read_text()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "usage: python -m sb3_s2pg.zoo"),
        (["trian"], "unknown command 'trian'"),
        (["train", "--algo", "s2pg_sca"], "invalid choice: 's2pg_sca'"),
        (["train", "--algo", "s2pg_sac", "--env", "PendulumNoVal-v1"], "you maybe meant PendulumNoVel-v1"),
        (["enjoy", "--algo", "s2pg_sac", "--env", "PendulumNoVel-v1", "-f", "nothing"], "nothing"),
        (["train", "--algo", "s2pg_sac", "--env", "CartPoleNoVel-v1", "-conf", "cartpole.yml"], "Discrete(2)"),
        (["train", "--algo", "s2pg_sac", "--env", "PendulumNoVel-v1", "-params", "foo:1"], "foo: no argument of S2PGSAC"),
        (["train", "--algo", "s2pg_sac", "--env", "FirstStepCue20-v0"], "FirstStepCue20-v0"),
    ],
)
def test_mistakes_end_in_a_message_and_leave_nothing(tmp_path, arguments, message):
    (tmp_path / "cartpole.yml").write_text(yaml.safe_dump({"CartPoleNoVel-v1": {"policy": "MlpPolicy", "n_timesteps": 10}}))
    printed = zoo(tmp_path, *arguments, fails=True)
    assert message in printed and "Traceback" not in printed
    assert not list(tmp_path.glob("logs/*/*_1"))


@pytest.mark.parametrize("algo", list(ALGORITHMS))
def test_every_task_has_settings_that_fit(algo, tmp_path):
    """A model is made of every entry of the file, and acts."""
    from sb3_s2pg.zoo import default_config, register
    from sb3_s2pg.zoo.experiment import S2PGExperimentManager

    register()
    entries = yaml.safe_load(Path(default_config(algo)).read_text())
    fitting = {task.id for task in list_tasks() if algo in ON_POLICY or isinstance(make(task.id).action_space, spaces.Box)}
    assert fitting <= entries.keys()
    # The others are those of the other version of gymnasium
    of_other_versions = {entry for entry in entries if entry not in gym.registry} - {"default"}
    names = {env_id.rpartition("-v")[0] for env_id in gym.registry}
    assert all(entry.rpartition("-v")[0] in names for entry in of_other_versions)
    for env_id in sorted(fitting):
        small = {"n_envs": 1, "n_steps": 64} if algo in ON_POLICY else {"buffer_size": 10}
        manager = S2PGExperimentManager(Namespace(), algo, env_id, str(tmp_path), seed=0, device="cpu", hyperparams=small)
        manager.verbose = 0
        model, _ = manager.setup_experiment()
        assert type(model) is ALGORITHMS[algo]
        actions, _ = model.predict(model.env.reset())
        assert model.action_space.contains(actions[0])
        model.env.close()


def test_help(tmp_path):
    assert "record_video" in zoo(tmp_path, "--help")
    assert "s2pg_td3" in zoo(tmp_path, "train", "--help")
