"""The benchmark command, run as a user would run it, with a small budget."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from distributed import LocalCluster
from envs import Counter, MixedDict
from gymnasium import spaces

from sb3_s2pg.benchmark import statistics
from sb3_s2pg.benchmark.__main__ import main
from sb3_s2pg.benchmark.algorithms import (
    ALGORITHMS,
    changed_policy_kwargs,
    evaluation_wrapper,
    find_entry,
    make_settings,
    parse_contestant,
    without_noise,
)
from sb3_s2pg.benchmark.grid import make_runs, reason_of
from sb3_s2pg.benchmark.report import first_reached, reached_table, write_report
from sb3_s2pg.benchmark.runs import Run, train
from sb3_s2pg.benchmark.statistics import (
    interquartile_curves,
    interquartile_means,
    normalized,
    probabilities_of_improvement,
)
from sb3_s2pg.envs import ActorObservation, FullObservation, PartialObservation, WindowObservation

ROOT = Path(__file__).parent.parent
PNG = b"\x89PNG"
# The fewest steps that all of them learn something in
FEW = {
    "sac": "learning_starts=10,batch_size=8,train_freq=1,gradient_steps=1",
    "trpo": "n_envs=2,n_steps=8,batch_size=8",
    "ppo": "n_envs=2,n_steps=8,batch_size=8,n_epochs=1",
}
SMALL = ("--curve-points", 2, "--curve-episodes", 1, "--episodes", 2, "--jobs", 2)


def few(name: str) -> str:
    """An algorithm with settings for a handful of steps."""
    return f"{name}:{FEW[next((kind for kind in ('ppo', 'trpo') if kind in name), 'sac')]}"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "sb3_s2pg.benchmark", *map(str, arguments)]


def environment(**variables: object) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **{key: str(value) for key, value in variables.items()}}


def benchmark(*arguments: object, fails: bool = False, **variables: object) -> str:
    """Run the command and return what it printed."""
    done = subprocess.run(
        command(*arguments), env=environment(**variables), capture_output=True, text=True, check=False, timeout=600
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def in_this_process(monkeypatch, capsys, code: int, *arguments: object):
    """Run the command here, without another start of Python, and return what it printed."""
    monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == code
    return capsys.readouterr()


def fails_with(monkeypatch, capsys, *arguments: object) -> str:
    """The one line in which the command ends."""
    (line,) = in_this_process(monkeypatch, capsys, 1, *arguments).err.splitlines()
    return line


def make_run(text: str, env: str, steps: int = 24, **changes: object) -> Run:
    budget = {"steps": steps, "curve_points": 2, "curve_episodes": 1, "episodes": 2, "device": "cpu"}
    (run,) = make_runs([parse_contestant(text)], [env], 1, budget)
    return replace(run, **changes)


def modified(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "runs").glob("*.json")}


def test_a_report_and_runs_that_are_never_run_again(tmp_path, monkeypatch, capsys):
    out = tmp_path / "report"
    # What the task hides is known in the processes of the runs, too: RL Zoo has a task of the same name
    labels = [few("s2pg_sac"), few("oracle_sac")]
    task = ("--env", "PendulumNoVel-v1", "--algos", *labels, "--steps", 30, "--out", out, *SMALL)
    printed = benchmark(*task, "--seeds", 1)
    assert "[2/2]" in printed and f"wrote {out / 'report.html'}" in printed
    # With another seed only that is run
    before = modified(out)
    assert "[2/2]" in benchmark(*task, "--seeds", 2)
    after = modified(out)
    assert len(before) == 2 and len(after) == 4 and before.items() <= after.items()

    written = json.loads((out / "report.json").read_text())
    assert written["command"].startswith("python -m sb3_s2pg.benchmark --env PendulumNoVel-v1") and not written["missing"]
    assert {"system", "processor", "cores", "versions"} == set(written["machine"])
    assert {"torch", "stable-baselines3", "gymnasium", "python"} <= set(written["machine"]["versions"])
    assert [(run["label"], run["seed"]) for run in written["runs"]] == [(label, seed) for seed in (0, 1) for label in labels]
    of_task = written["statistics"]["PendulumNoVel-v1"]
    for label in labels:
        runs = [run for run in written["runs"] if run["label"] == label]
        returns = [run["mean_return"] for run in runs]
        # Of two runs nothing is cut off
        assert of_task["return"][label]["interquartile_mean"]["value"] == pytest.approx(np.mean(returns))
        assert list(of_task["return"][label]["seeds"].values()) == returns
        assert of_task["cost"][label]["updates"] == 20 and of_task["cost"][label]["update_cpu_ms"] > 0
        for run in runs:
            assert run["trained_steps"] == 30 and run["curve"]["steps"] == [15, 30] and len(run["returns"]) == 2
            assert run["mean_return"] == pytest.approx(np.mean(run["returns"]))
            assert run["curve"]["seconds"][0] < run["curve"]["seconds"][1] <= run["seconds"]
            assert run["steps_per_second"] == pytest.approx(30 / run["seconds"])
            # torch alone takes more; a buffer for a million steps, of which 30 have been touched, is not there
            assert 50 < run["imports_memory_mb"] < run["peak_memory_mb"] < 2000
    assert [(pair["of"], pair["over"]) for pair in of_task["probability_of_improvement"]] == [
        tuple(labels),
        tuple(reversed(labels)),
    ]

    pictures = sorted(out.glob("*.png"))
    page = (out / "report.html").read_text()
    assert len(pictures) == 3 and all(picture.read_bytes()[:4] == PNG for picture in pictures)
    # The page needs no other file: its pictures are those that lie beside it
    embedded = re.findall(r'src="([^"]*)"', page)
    assert {base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in embedded} == {
        picture.read_bytes() for picture in pictures
    }
    assert "http" not in page and all(label in page for label in labels)
    assert "PendulumNoVel-v1 in s2pg_sac.yml" in page and "Pendulum-v1 in sac.yml" in page

    # Nothing is left to do; fewer seeds would be another comparison
    assert "[" not in in_this_process(monkeypatch, capsys, 0, *task, "--seeds", 2).out
    assert "holds results of other runs" in fails_with(monkeypatch, capsys, *task, "--seeds", 1)
    assert modified(out) == after


def test_runs_that_die_are_reported_and_tried_again_and_what_is_finished_stays(tmp_path, monkeypatch, capsys):
    out = tmp_path / "report"
    task = ("--env", "fragile:Fragile-v0", "--algos", "sac", "--steps", 12, "--seeds", 3, "--out", out, *SMALL)
    printed = benchmark(*task, fails=True, FRAGILE="1:memory,2:kill")
    lines = {seed: line for line in printed.splitlines() for seed in range(3) if f"seed {seed}: DIED" in line}
    assert "out of memory" in lines[1] and "Unable to allocate" in lines[1] and "buffer_size" in lines[1]
    assert "killed by SIGKILL" in lines[2] and "out of memory" in lines[2]
    assert set(lines) == {1, 2} and "2 of 3 runs have died" in printed
    logs = sorted((out / "runs").glob("*.failed.txt"))
    assert len(logs) == 2 and "in step" in logs[0].read_text()
    # What is finished is reported, and what is missing said
    assert len(json.loads((out / "report.json").read_text())["runs"]) == 1
    assert "sac, fragile:Fragile-v0, seed 2" in (out / "report.html").read_text()

    before = modified(out)
    assert len(before) == 1
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    printed = in_this_process(monkeypatch, capsys, 0, *task).out
    assert "[2/2]" in printed and "seed 0:" not in printed
    assert (
        len(modified(out)) == 3 and before.items() <= modified(out).items() and not list((out / "runs").glob("*.failed.txt"))
    )
    assert "Not finished" not in (out / "report.html").read_text()


def is_alive(process: int) -> bool:
    state = Path(f"/proc/{process}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_for(condition, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc").exists(), reason="asks Linux which processes there are")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_command_that_is_killed_takes_its_runs_along_and_keeps_what_is_finished(tmp_path, how):
    out = tmp_path / "report"
    task = ("--env", "fragile:Fragile-v0", "--algos", "sac", "--steps", 12, "--seeds", 2, "--out", out, *SMALL)
    variables = environment(FRAGILE="1:sleep600", FRAGILE_LOG=tmp_path)
    with subprocess.Popen(command(*task), env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: len(modified(out)) == 1)
        # The other one sleeps in its first episode
        run = tmp_path / "1.txt"
        wait_for(lambda: run.exists() and run.read_text().endswith(str(process.pid)))
        process.send_signal(how)
    sleeping = int(run.read_text().split()[0])
    wait_for(lambda: not is_alive(sleeping), seconds=60)
    (finished,) = (out / "runs").glob("*.json")
    assert json.loads(finished.read_text())["seed"] == 0


def test_on_a_dask_cluster_of_two_workers_one_of_which_is_killed(tmp_path, monkeypatch):
    out = tmp_path / "report"
    for name, value in environment(FRAGILE_LOG=tmp_path, FRAGILE="0:sleep4,1:sleep4").items():
        monkeypatch.setenv(name, value)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        task = ("--env", "fragile:Fragile-v0", "--algos", "sac", "--steps", 12, "--seeds", 2, "--out", out, *SMALL)
        workers = {worker.pid for worker in cluster.workers.values()}
        arguments = command(*task, "--backend", "dask", "--scheduler", cluster.scheduler_address)
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            # The runs, which sleep in their episodes, note which processes have started them: in the end each worker one
            wait_for(lambda: started_by(tmp_path) == workers)
            os.kill(int((tmp_path / "1.txt").read_text().split()[1]), signal.SIGKILL)
            printed, _ = process.communicate(timeout=600)
    # The run of that worker was started again, by another one
    assert process.returncode == 0 and "[2/2]" in printed and len(modified(out)) == 2


def started_by(folder: Path) -> set[int]:
    notes = [(folder / f"{seed}.txt") for seed in (0, 1)]
    return {int(note.read_text().split()[1]) for note in notes if note.exists() and " " in note.read_text()}


def test_a_window_by_hand():
    env = WindowObservation(Counter(number=7, length=3), length=2)
    assert env.observation_space.shape == (2 * 3 + 2 * 2,)
    observation, _ = env.reset(seed=0)
    np.testing.assert_allclose(observation, [7, 0, 0, 7, 0, 0, 0, 0, 0, 0])
    # Actions lie in [-2, 2] x [0, 1]
    np.testing.assert_allclose(env.step(np.array([1.0, 1.0]))[0], [7, 0, 0, 7, 0, 1, 0, 0, 0.5, 1])
    np.testing.assert_allclose(env.step(np.array([-2.0, 0.5]))[0], [7, 0, 1, 7, 0, 2, 0.5, 1, -1, 0])
    last, reward, terminated, truncated, _ = env.step(np.array([0.0, 0.0]))
    np.testing.assert_allclose(last, [7, 0, 2, 7, 0, 3, -1, 0, 0, -1])
    assert (reward, terminated, truncated) == (3, True, False) and env.observation_space.contains(last)
    # Nothing of the last episode is left
    np.testing.assert_allclose(env.reset()[0], [7, 1, 0, 7, 1, 0, 0, 0, 0, 0])


def test_a_window_of_discrete_actions_is_one_hot():
    env = WindowObservation(gym.make("FirstStepCue-v0", length=5, n_cues=2, n_distractors=1), length=1)
    env.reset(seed=0)
    np.testing.assert_array_equal(env.step(1)[0][-2:], [0, 1])


@pytest.mark.parametrize("length", [0, True, 1.5])
def test_a_window_has_a_length(length):
    with pytest.raises(ValueError, match="at least 1 step"):
        WindowObservation(Counter(), length=length)


@pytest.mark.parametrize("env_id", ["PendulumNoVel-v1", "PendulumNoVelPriv-v1"])
def test_an_oracle_sees_what_the_task_without_hiding_shows(env_id):
    oracle, full = FullObservation(gym.make(env_id)), gym.make("Pendulum-v1")
    assert oracle.observation_space == full.observation_space
    np.testing.assert_array_equal(oracle.reset(seed=3)[0], full.reset(seed=3)[0])
    for action in ([1.0], [-2.0]):
        shown, expected = oracle.step(np.array(action, dtype=np.float32)), full.step(np.array(action, dtype=np.float32))
        np.testing.assert_array_equal(shown[0], expected[0])
        assert shown[1:4] == expected[1:4] and shown[0][2] != 0


def test_an_oracle_sees_the_goal_and_the_cue_all_the_time():
    env = FullObservation(gym.make("PointMassMemory-v0"))
    start, _ = env.reset(seed=0)
    for _ in range(20):
        shown = env.step(np.array([-0.5]))[0]
    np.testing.assert_array_equal(shown[2:], start[2:])
    env = FullObservation(gym.make("FirstStepCue20-v0"))
    start, _ = env.reset(seed=0)
    np.testing.assert_array_equal(env.step(0)[0][:4], start[:4])
    assert start[:4].sum() == 1


def test_an_oracle_sees_a_task_of_the_users_own_as_well():
    env = FullObservation(PartialObservation(Counter(number=7), hidden=[0, 2], drop=True))
    env.reset(seed=0)
    np.testing.assert_array_equal(env.step(np.zeros(2))[0], [7, 0, 1])
    with pytest.raises(ValueError, match="does not say what it hides"):
        FullObservation(Counter())


def test_what_the_actor_sees():
    env = ActorObservation(gym.make("PendulumNoVelPriv-v1"))
    assert isinstance(env.observation_space, spaces.Box) and env.reset(seed=0)[0][2] == 0
    several = ActorObservation(MixedDict())
    assert set(several.observation_space.spaces) == set(several.reset(seed=0)[0]) == {"camera", "joints", "mode"}
    assert ActorObservation(Counter()).observation_space == Counter.observation_space


@pytest.mark.parametrize(
    "config, env, entry",
    [
        ("s2pg_sac", "PendulumNoVelPriv-v1", "PendulumNoVelPriv-v1 in s2pg_sac.yml"),
        ("ppo_lstm", "PendulumNoVelPriv-v1", "PendulumNoVel-v1 in ppo_lstm.yml"),
        ("sac", "PendulumNoVel-v1", "Pendulum-v1 in sac.yml"),
        ("sac", "PointMassMemoryPriv-v0", "defaults"),
    ],
)
def test_settings_are_those_of_the_task_or_of_its_relatives(config, env, entry):
    assert find_entry(config, env)[0] == entry


def test_another_version_of_a_task_has_its_settings():
    (base,) = (spec.version for spec in gym.registry.values() if spec.name == "HopperNoVelMass")
    name, settings = find_entry("td3", f"HopperNoVelMass-v{base}")
    assert re.fullmatch(r"Hopper-v\d in td3.yml", name) and settings["learning_starts"] == 10000


def test_bptt_has_the_settings_of_s2pg_without_its_noise():
    assert without_noise(
        {"gamma": 0.9, "state_ent_coef": 0.0, "policy_kwargs": {"state_dim": 4, "state_noise_kwargs": {"std_type": "fixed"}}}
    ) == {"gamma": 0.9, "policy_kwargs": {"state_dim": 4}}
    text = "dict(state_dim=4, state_noise_class='uniform', activation_fn=nn.ReLU)"
    assert without_noise({"policy_kwargs": text}) == {"policy_kwargs": "dict(state_dim=4, activation_fn=nn.ReLU)"}
    _, ours = make_settings(parse_contestant("s2pg_sac"), "PointMassMemoryPriv-v0", 10)
    _, theirs = make_settings(parse_contestant("bptt_sac:truncation_length=5"), "PointMassMemoryPriv-v0", 10)
    assert "state_noise_kwargs" in ours["policy_kwargs"] and "state_ent_coef" in ours
    del ours["policy_kwargs"]["state_noise_kwargs"], ours["state_ent_coef"]
    assert theirs == {**ours, "truncation_length": 5}


def test_settings_from_the_command_line():
    text = "window_sac:window_length=3,learning_rate='lin_1e-3',train_freq=(1, 'episode'),policy_kwargs={'net_arch': [8]}"
    source, settings = make_settings(parse_contestant(text), "PendulumNoVelPriv-v1", 10)
    assert source == "Pendulum-v1 in sac.yml" and settings == {
        "n_timesteps": 10,
        "policy": "MlpPolicy",
        "learning_rate": "lin_1e-3",
        "train_freq": [1, "episode"],
        "policy_kwargs": {"net_arch": [8]},
        "env_wrapper": ["sb3_s2pg.envs.ActorObservation", {"sb3_s2pg.envs.WindowObservation": {"length": 3}}],
    }


def test_policy_kwargs_from_the_command_line_leave_the_others():
    _, settings = make_settings(parse_contestant("s2pg_ppo:policy_kwargs={'state_dim': 8}"), "FirstStepCue20-v0", 10)
    assert eval(settings["policy_kwargs"]) == {
        "net_arch": {"pi": [64], "vf": [64]},
        "state_dim": 8,
        "state_kernel_kwargs": {"max_time_constant": 1000.0},
        "use_previous_action": False,
    }
    # A dictionary in the file, and a text on the command line, which stands for itself
    _, settings = make_settings(parse_contestant("s2pg_sac:policy_kwargs={'state_dim': 8}"), "PointMassMemoryPriv-v0", 10)
    assert settings["policy_kwargs"]["state_dim"] == 8 and settings["policy_kwargs"]["net_arch"] == [128, 128]
    _, settings = make_settings(parse_contestant("s2pg_ppo:policy_kwargs='dict(state_dim=8)'"), "FirstStepCue20-v0", 10)
    assert settings["policy_kwargs"] == "dict(state_dim=8)"
    with pytest.raises(ValueError, match=r"not of the form dict\(name=value\)"):
        changed_policy_kwargs("{'state_dim': 4}", {"state_dim": 8})


def test_a_label():
    contestant = parse_contestant("long memory=bptt_sac:truncation_length=32")
    assert contestant.label == "long memory" and contestant.changes == {"truncation_length": 32}
    assert contestant.algorithm is ALGORITHMS["bptt_sac"] and parse_contestant("plain=sac").changes == {}


def test_evaluation_has_the_time_limit_of_the_task_not_that_of_training():
    _, settings = make_settings(parse_contestant("oracle_sac"), "PointMassMemory-v0", 10)
    settings["env_wrapper"].append({"gymnasium.wrappers.TimeLimit": {"max_episode_steps": 200}})
    env = evaluation_wrapper(settings)(gym.make("PointMassMemory-v0"))
    assert isinstance(env, FullObservation) and env.spec.max_episode_steps == 1000
    result = train(make_run(f"s2pg_sac:{FEW['sac']},n_envs=1,use_sde=False", "PointMassMemoryPriv-v0", 12))
    # It went its way, and was not stopped after 200 steps: the states of an episode have been written down
    assert len(result["episode"]["states"]) > 200 or result["episode"]["return"] < 0


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_every_algorithm_trains_and_counts_its_updates(name):
    result = train(make_run(few(name), "PendulumNoVelPriv-v1", steps=32))
    # 32 - 10 gradient steps; 2 rollouts of 16 steps, with 2 minibatches each or one step within a trust region
    assert result["trained_steps"] == 32 and result["updates"] == (2 if "trpo" in name else 4 if "ppo" in name else 22)
    assert len(result["curve"]["returns"]) == len(result["returns"]) == 2 and np.isfinite(result["returns"]).all()
    assert 0 < result["update_ms"] * result["updates"] / 1e3 < result["seconds"]
    stateful = name.startswith(("s2pg", "bptt"))
    assert (result["episode"] is not None) == stateful
    if stateful:
        assert len(result["episode"]["states"]) == len(result["episode"]["actions"]) == 200


def test_evaluation_costs_no_time(monkeypatch):
    import fragile  # noqa: F401 (registers the task)

    monkeypatch.setenv("FRAGILE", "1000:sleep0.5")
    run = make_run("sac", "Fragile-v0", steps=20)
    start = time.perf_counter()
    result = train(run)
    # An episode at each of two points of the curve, and two of the final model
    assert result["seconds"] < time.perf_counter() - start - 4 * 0.5
    assert result["curve"]["seconds"][1] <= result["seconds"]


def test_the_same_run_has_the_same_result_and_name():
    first, second = (make_run(few("s2pg_sac"), "PendulumNoVel-v1") for _ in range(2))
    assert first.name == second.name and train(first)["returns"] == train(second)["returns"]
    names = {replace(first, **change).name for change in ({"seed": 1}, {"steps": 25}, {"settings": {}}, {"episodes": 3})}
    assert len(names | {first.name}) == 5


def test_statistics_by_hand(monkeypatch):
    monkeypatch.setattr(statistics, "REPLICATIONS", 200)
    scores = {"a": np.array([[1.0], [2.0], [3.0], [100.0]]), "b, c": np.array([[2.0], [2.0]]), "d": np.array([[0.0]])}
    means = interquartile_means(scores)
    # Half of the runs are in the middle
    assert means["a"].value == 2.5 and means["a"].low <= 2.5 <= means["a"].high
    assert means["b, c"] == (2, 2, 2) and means["d"] == (0, 0, 0)
    assert interquartile_means(scores) == means
    better = probabilities_of_improvement(scores)
    # 3 and 100 are better than 2, 1 is not, and 2 is half so
    assert better["a", "b, c"].value == 0.625 and better["b, c", "a"].value == 0.375 and better["a", "d"] == (1, 1, 1)
    assert probabilities_of_improvement({"a": scores["a"]}) == {}
    curves = interquartile_curves({"a": np.column_stack([scores["a"][:, 0], -scores["a"][:, 0]])})
    np.testing.assert_array_equal(curves["a"][0], [2.5, -2.5])
    assert (curves["a"][1] <= curves["a"][0]).all() and (curves["a"][0] <= curves["a"][2]).all()


def test_tasks_are_made_comparable():
    tables = {"a": np.array([[0.0, 10.0], [2.0, 10.0]]), "b": np.array([[3.0, 30.0]]), "c": np.array([[2.0, 20.0]])}
    comparable = normalized(tables)
    np.testing.assert_array_equal(comparable["a"], [[-0.5, 0], [0.5, 0]])
    np.testing.assert_array_equal(comparable["b"], [[1, 1]])
    np.testing.assert_array_equal(comparable["c"], [[0.5, 0.5]])


def test_several_tasks(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "REPLICATIONS", 200)
    tasks, contestants = (
        ("PendulumNoVel-v1", "MountainCarContinuousNoVel-v0"),
        [*map(parse_contestant, map(few, ("ppo", "sac")))],
    )
    budget = {"steps": 16, "curve_points": 1, "curve_episodes": 1, "episodes": 1, "device": "cpu"}
    runs = make_runs(contestants, tasks, 2, budget)
    # One is missing: over the tasks that seed of that algorithm does not count
    results = [train(run) for run in runs[:-1]]
    write_report(tmp_path, "the command", contestants, runs, results, threshold=1e9)
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["threshold"] == 1e9 and "never, never" in (tmp_path / "report.html").read_text()
    assert all(statistics["reached"][few("ppo")] == {"0": None, "1": None} for statistics in written["statistics"].values())
    assert set(written["statistics"]) == set(tasks) and written["missing"] == [str(runs[-1])]
    over_tasks = written["over_tasks"]["interquartile_mean"]
    # One seed: the mean of two tasks, on which it is the best or the worst
    assert over_tasks[few("sac")]["value"] in (pytest.approx(0), pytest.approx(0.5), pytest.approx(1))
    assert over_tasks[few("sac")]["low"] == over_tasks[few("sac")]["high"] and few("ppo") in over_tasks
    assert len(list(tmp_path.glob("*.png"))) == 4 and "All tasks" in (tmp_path / "report.html").read_text()


def test_when_a_return_is_reached_by_hand():
    curve = {
        "steps": [10, 20, 30],
        "returns": [-300.0, -200.0, -260.0],
        "seconds": [1.0, 2.0, 3.0],
        "cpu_seconds": [4.0, 5.0, 6.0],
    }
    point = first_reached({"curve": curve}, -250.0)
    assert point == {"steps": 20, "seconds": 2.0, "cpu_seconds": 5.0}
    assert first_reached({"curve": curve}, -200.0) == point and first_reached({"curve": curve}, -199.0) is None
    table = reached_table({"a": {"0": point, "1": {**point, "steps": 40}}, "b": {"0": point, "1": None}}, -250.0)
    assert "<td>a</td><td>30</td><td>2</td><td>5</td><td>20, 40</td>" in table
    # No mean of those that are left
    assert "<td>b</td><td></td><td></td><td></td><td>20, never</td>" in table


def test_why_a_run_died():
    assert "SIGSEGV" in reason_of(-signal.SIGSEGV, "") and "memory" not in reason_of(-signal.SIGSEGV, "")
    assert reason_of(1, "Traceback ...\nRuntimeError: the simulator has a fit\n") == "RuntimeError: the simulator has a fit"
    assert reason_of(3, "\n") == "its process ended with code 3 and no message"


PENDULUM = ("--env", "PendulumNoVel-v1", "--steps", 10, "--algos")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((*PENDULUM, "s2pg_sca"), "unknown algorithm 's2pg_sca', there are s2pg_sac, s2pg_td3, s2pg_ppo, s2pg_trpo, bptt_sac"),
        ((*PENDULUM, "sac", "--steps", 0), "--steps 0 must be at least 1"),
        ((*PENDULUM, "sac", "--seeds", 0), "--seeds 0 must be at least 1"),
        ((*PENDULUM, "sac", "--jobs", 0), "--jobs 0 must be at least 1"),
        ((*PENDULUM, "sac", "ppo", "sac"), "--algos names sac twice"),
        ((*PENDULUM, "bptt_sac:truncation_length=0"), "truncation_length=0 must be an integer of at least 1"),
        ((*PENDULUM, "bptt_td3:truncation_length=11,buffer_size=10"), "truncation_length=11 is longer than the replay buffer"),
        ((*PENDULUM, "sac:gama=0.9"), "sac:gama=0.9 on PendulumNoVel-v1: gama: no argument of SAC"),
        ((*PENDULUM, "sac:window_length=2"), "window_length: no argument of SAC"),
        ((*PENDULUM, "sac:gamma"), "write settings as sac:gamma=0.98"),
        ((*PENDULUM, "=sac"), "'=sac': nothing stands before the equals sign, write a label, or 'sac'"),
        ((*PENDULUM, "a=sac", "a=ppo"), "--algos calls two algorithms 'a': give them different labels"),
        ((*PENDULUM, "a=sca"), "unknown algorithm 'sca'"),
        ((*PENDULUM, "sac:gamma=1) + (1"), "write settings as sac:gamma=0.98"),
        ((*PENDULUM, "sac:buffer_size=10**15"), "write settings as"),
        ((*PENDULUM, "sac:buffer_size=1000000000000000"), "Unable to allocate"),
        ((*PENDULUM, "oracle_sac", "--env", "Pendulum-v1"), "does not say what it hides"),
        ((*PENDULUM, "sac", "--env", "PendulumNoVal-v1"), "PendulumNoVal"),
        ((*PENDULUM, "sac", "--env", "no_such_module:Task-v0"), "No module named 'no_such_module'"),
        (
            (*PENDULUM, "s2pg_sac", "--env", "CartPoleNoVel-v1"),
            "s2pg_sac on CartPoleNoVel-v1: S2PGSAC needs a Box action space",
        ),
        ((*PENDULUM, "td3", "--env", "CartPoleNoVel-v1"), "td3 on CartPoleNoVel-v1"),
        ((*PENDULUM, "sac", "--backend", "dsak"), "--backend dsak: Invalid backend"),
        ((*PENDULUM, "sac", "--backend", "dask"), "needs the address of the cluster"),
        ((*PENDULUM, "sac", "--scheduler", "tcp://127.0.0.1:1"), "is for --backend dask or ray"),
        ((*PENDULUM, "sac", "--backend", "dask", "--scheduler", "tcp://127.0.0.1:1"), "the cluster cannot be reached"),
    ],
)
def test_mistakes_end_in_a_line_before_anything_is_trained(tmp_path, monkeypatch, capsys, arguments, message):
    assert message in fails_with(monkeypatch, capsys, *arguments, "--out", tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_other_things_in_the_folder_are_left_alone(tmp_path, monkeypatch, capsys):
    (tmp_path / "thesis.tex").write_text("all of it")
    assert "holds something else" in fails_with(monkeypatch, capsys, *PENDULUM, "sac", "--out", tmp_path)
    assert "is a file" in fails_with(monkeypatch, capsys, *PENDULUM, "sac", "--out", tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_is_not_installed_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    scheduler = ("--backend", "dask", "--scheduler", "tcp://127.0.0.1:1", "--out", tmp_path / "report")
    assert "pip install sb3-s2pg[dask]" in fails_with(monkeypatch, capsys, *PENDULUM, "sac", *scheduler)
    monkeypatch.setitem(sys.modules, "ray", None)
    scheduler = ("--backend", "ray", "--out", tmp_path / "report")
    assert "pip install ray" in fails_with(monkeypatch, capsys, *PENDULUM, "sac", *scheduler)
    for name in ("rliable", "sb3_s2pg.benchmark.report", "sb3_s2pg.benchmark.statistics"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "rliable", None)
    message = fails_with(monkeypatch, capsys, *PENDULUM, "sac", "--out", tmp_path / "report")
    assert "needs rliable" in message and "pip install sb3-s2pg[benchmark]" in message


def test_help():
    assert "--scheduler" in benchmark("--help")
