"""The examples run as the commands that their headers name, with a small budget."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sb3_s2pg.benchmark.algorithms import parse_contestant
from sb3_s2pg.benchmark.grid import make_runs
from sb3_s2pg.benchmark.runs import check_run
from sb3_s2pg.common.kernels import KERNELS

EXAMPLES = Path(__file__).parent.parent / "examples"
PNG = b"\x89PNG"
LABELS = ["S2PG-SAC, velocity hidden", "SAC, velocity hidden", "SAC, full state"]


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_demo(tmp_path):
    out, runs = tmp_path / "demo", tmp_path / "runs"
    budget = ("--steps=300", "--baseline-steps=300", "--curve-every=150")
    printed = run("demo.py", *budget, f"--out={out}", f"--tensorboard-log={runs}")
    results = json.loads(out.with_suffix(".json").read_text())["results"]
    assert [result["label"] for result in results] == LABELS
    assert all(len(result["returns"]) == 20 and result["curve"]["steps"] == [150, 300] for result in results)
    assert all(f"{result['mean_return']:.1f}" in printed for result in results)
    assert out.with_suffix(".png").read_bytes()[:4] == PNG
    assert list(runs.glob("S2PGSAC_1/events.out.tfevents*"))


def test_pendulum_goes_on_where_it_was_stopped(tmp_path):
    out = tmp_path / "pendulum"
    arguments = ("--seeds=1", "--steps=150", "--jobs=1", f"--out={out}")
    run("pendulum.py", *arguments)
    first = json.loads(out.with_suffix(".json").read_text())
    assert len(first["results"]) == 5 and set(first["summary"]["S2PG-SAC"]) == {"mean", "seeds", "to_reach"}
    # Only what is missing is trained again
    (tmp_path / "pendulum_runs" / "2_seed0_steps150.json").unlink()
    printed = run("pendulum.py", *arguments)
    assert [line.split(",")[1].strip() for line in printed.splitlines() if "seed 0:" in line] == ["memory off"]
    second = json.loads(out.with_suffix(".json").read_text())
    for before, after in zip(first["results"], second["results"], strict=True):
        # Same seed, same run
        assert before["mean_return"] == pytest.approx(after["mean_return"])


def test_update_time(tmp_path):
    printed = run("update_time.py", "--rounds=1", f"--out={tmp_path / 'time'}")
    rows = json.loads((tmp_path / "time.json").read_text())["rows"]
    assert len(rows) == 34 and all(row["ms"] > 0 for row in rows)
    assert "HalfCheetah" in printed and (tmp_path / "time.png").read_bytes()[:4] == PNG


def test_variance(tmp_path):
    out = tmp_path / "variance"
    printed = run("variance.py", "--samples=40", f"--out={out}")
    written = json.loads(out.with_suffix(".json").read_text())
    assert {(row["method"], row["window"]) for row in written["rows"]} == {("S2PG", 0), ("BPTT", 0), ("BPTT", 5), ("BPTT", 10)}
    assert all(0 < row["variance"] < float("inf") for row in written["rows"])
    assert f"tests: {written['summary']['tests']}" in printed and out.with_suffix(".png").read_bytes()[:4] == PNG


def test_memory_horizon(tmp_path):
    out = tmp_path / "horizon"
    printed = run("memory_horizon.py", "--rounds=1", "--truncations", "1", "8", "--state-dim=8", f"--out={out}")
    rows = {row["model"]: row for row in json.loads(out.with_suffix(".json").read_text())["rows"]}
    unrolled = [f"BPTTSAC {length} {loss_steps}" for loss_steps in ("last", "all") for length in (1, 8)]
    assert list(rows) == ["SAC", "S2PGSAC", *unrolled]
    assert all(f"{row['ms']:.2f}" in printed for row in rows.values()) and rows["S2PGSAC"]["ratio"] == 1
    assert out.with_suffix(".png").read_bytes()[:4] == PNG


def test_velocity_tasks_with_settings_of_rl_zoo(tmp_path):
    out = tmp_path / "cartpole"
    printed = run("velocity_tasks.py", "CartPoleNoVel-v1", "--seeds=1", "--steps=1024", "--jobs=1", f"--out={out}")
    written = json.loads(out.with_suffix(".json").read_text())
    labels = ["S2PG-PPO (1.024k)", "RecurrentPPO (1.024k)", "PPO, memoryless (1.024k)"]
    assert list(written["summary"]) == labels and all(label in printed for label in labels)
    for result, n_envs in zip(written["results"], (8, 8, 8), strict=True):
        assert result["settings"]["n_envs"] == n_envs and len(result["returns"]) == 20
        assert result["training_cpu_seconds"] > 0 and len(result["curve"]["steps"]) == 10
    assert out.with_suffix(".png").read_bytes()[:4] == PNG


def test_long_memory(tmp_path):
    out = tmp_path / "memory"
    run("long_memory.py", "--seeds=1", "--lengths=20", "--equal-steps=20", "--steps=500", "--jobs=1", f"--out={out}")
    summary = json.loads(out.with_suffix(".json").read_text())["summary"]
    assert list(summary) == ["L = 20, S2PG-PPO", "L = 20, RecurrentPPO", "L = 20, RecurrentPPO, as many steps"]
    assert all(0 <= row["success"] <= 1 and row["cpu_seconds"] > 0 for row in summary.values())
    assert out.with_suffix(".png").read_bytes()[:4] == PNG


def test_sensor_fusion(tmp_path):
    out = tmp_path / "fusion"
    run("sensor_fusion.py", "--seeds=1", "--steps=200", "--jobs=1", f"--out={out}")
    written = json.loads(out.with_suffix(".json").read_text())
    assert list(written["summary"]) == ["true velocity", "fused velocity", "history", "nothing more"]
    # Better than the gyroscope alone, whose noise has a std of 1 rad/s, and than no sensor at all
    assert 0.1 < written["filter_error"] < 0.7
    assert out.with_suffix(".png").read_bytes()[:4] == PNG


def test_evidence(tmp_path, monkeypatch):
    printed = run("evidence.py", "wall_clock", "--seeds=1", "--steps=40", "--jobs=2", f"--out={tmp_path}")
    assert "python -m sb3_s2pg.benchmark --env PendulumNoVel-v1" in printed and "seed 0: -250 never" in printed
    report = json.loads((tmp_path / "wall_clock" / "report.json").read_text())
    assert list(report["statistics"]["PendulumNoVel-v1"]["return"]) == [
        "s2pg_sac",
        "bptt_sac:truncation_length=5",
        "bptt_sac:truncation_length=10",
    ]
    # Nothing is wrong with the others
    monkeypatch.syspath_prepend(EXAMPLES)
    comparisons = importlib.import_module("evidence").COMPARISONS
    budget = {"steps": 10, "curve_points": 1, "curve_episodes": 1, "episodes": 1, "device": "cpu"}
    for comparison in comparisons.values():
        contestants = [parse_contestant(text) for text in comparison.algorithms]
        for made in make_runs(contestants, comparison.envs[:1], 1, budget):
            check_run(made)


def test_trust_region(tmp_path):
    out = tmp_path / "trpo"
    run("trust_region.py", "--seeds=1", "--steps=1024", "--jobs=1", f"--out={out}")
    summary = json.loads(out.with_suffix(".json").read_text())["summary"]
    assert list(summary) == ["S2PG-TRPO", "with S2PG-PPO's noise", "without memory"]
    assert all(row["mean"] > 0 and row["cpu_seconds"] > 0 for row in summary.values())
    assert out.with_suffix(".png").read_bytes()[:4] == PNG


def test_steps_per_second(tmp_path):
    run("steps_per_second.py", "--rounds=2", f"--out={tmp_path / 'speed'}")
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert len(rows) == 5 and all(row["steps_per_second"] > 0 for row in rows)
    assert rows[0]["of PPO"] == rows[3]["of RecurrentPPO"] == 1


def test_tasks(tmp_path):
    printed = run("tasks.py", f"--out={tmp_path / 'tasks'}")
    # A line for each; one with spaces in it says that there is no OpenGL to render with, where there is none
    lines = [line for line in printed.splitlines() if "-v" in line and " " not in line]
    assert len(lines) == 15 and lines[0] == "CartPoleNoVelPriv-v1" and lines[-1] == "FirstStepCue20-v0"
    assert (tmp_path / "tasks.png").read_bytes()[:4] == PNG


def test_front_door(tmp_path):
    out = tmp_path / "front_door"
    run("front_door.py", "--seeds=1", "--steps=300", "--jobs=1", f"--out={out}")
    summary = json.loads(out.with_suffix(".json").read_text())["summary"]
    assert {name: len(row["seeds"]) for name, row in summary.items()} == {
        "s2pg_sac, PendulumNoVel-v1": 1,
        "s2pg_ppo, CartPoleNoVel-v1": 1,
    }
    assert out.with_suffix(".png").read_bytes()[:4] == PNG


def test_gail_goes_on_where_it_was_stopped(tmp_path):
    out = tmp_path / "gail"
    arguments = ("--seeds=1", "--steps=4096", "--expert-steps=200", "--demonstrations=3", "--curve-points=1", "--jobs=1")
    run("gail.py", *arguments, f"--out={out}")
    first = json.loads(out.with_suffix(".json").read_text())
    assert list(first["summary"]) == ["expert", "S2PG-PPO + GAIL", "memoryless + GAIL"]
    assert all(result["curve"]["steps"] == [4096] and len(result["returns"]) == 20 for result in first["results"])
    assert out.with_suffix(".png").read_bytes()[:4] == PNG
    (tmp_path / "gail_runs" / "1_seed0_steps4096.json").unlink()
    printed = run("gail.py", *arguments, f"--out={out}")
    assert "training the expert" not in printed and "memoryless + GAIL, seed 0" in printed
    assert "S2PG-PPO + GAIL, seed 0" not in printed
    for before, after in zip(first["results"], json.loads(out.with_suffix(".json").read_text())["results"], strict=True):
        assert before["mean_return"] == pytest.approx(after["mean_return"])


def test_half_cheetah_gives_recurrent_ppo_the_same_time(tmp_path):
    out = tmp_path / "cheetah"
    run("half_cheetah.py", "--seeds=1", "--steps=50", "--jobs=1", "--curve-points=1", "--episodes=1", f"--out={out}")
    summary = json.loads(out.with_suffix(".json").read_text())["summary"]
    assert [row["steps"] for row in summary.values()][:2] == [50, 50]
    stateful, _, recurrent = summary.values()
    # It stops when a step ends after the time is over, or after a rollout has been learned from
    assert recurrent["steps"] < 20 * 50 and recurrent["cpu_seconds"] >= stateful["cpu_seconds"]
    assert out.with_suffix(".png").read_bytes()[:4] == PNG


def test_point_mass(tmp_path):
    out = tmp_path / "point_mass"
    printed = run("point_mass.py", "--seeds=1", "--steps=64", "--curve-points=1", "--episodes=2", "--jobs=1", f"--out={out}")
    written = json.loads(out.with_suffix(".json").read_text())
    assert list(written["summary"]) == ["S2PG-SAC", "without memory"] and "share of 2 deterministic episodes" in printed
    # Success, not the return
    assert all(set(result["returns"]) <= {0.0, 1.0} and len(result["returns"]) == 2 for result in written["results"])
    assert out.with_suffix(".png").read_bytes()[:4] == PNG


def test_humanoid_smoke(tmp_path):
    printed = run("humanoid_smoke.py", "--steps=30", f"--out={tmp_path / 'humanoid'}")
    assert "hidden: velocities, com_inertia, com_velocity, actuator_forces" in printed and "not a result" in printed
    assert json.loads((tmp_path / "humanoid.json").read_text())["steps"] == 30


def test_ls_iq(tmp_path):
    out = tmp_path / "ls_iq"
    arguments = ("--seeds=1", "--steps=200", "--expert-steps=150", "--curve-every=100", "--jobs=1", f"--out={out}")
    printed = run("ls_iq.py", *arguments)
    written = json.loads(out.with_suffix(".json").read_text())
    assert list(written["summary"]) == ["expert", "LS-IQ", "LS-IQ, memory off"]
    assert [(len(result["returns"]), result["curve"]["steps"]) for result in written["results"]] == [(20, [100, 200])] * 2
    assert f"{written['summary']['expert']['mean']:.1f}" in printed and out.with_suffix(".png").read_bytes()[:4] == PNG
    # Neither the expert nor the runs are trained again
    assert "seed 0:" not in run("ls_iq.py", *arguments)


def test_kernels(tmp_path):
    out = tmp_path / "kernels"
    printed = run("kernels.py", "--algorithms=S2PGPPO", "--steps=500", "--run-steps=100", "--jobs=1", f"--out={out}")
    results = json.loads(out.with_suffix(".json").read_text())["results"]
    assert {result["kernel"] for result in results} == set(KERNELS) and {result["noise"] for result in results} == {"gaussian"}
    assert all(0 < result["mean_of_last_tenth"] <= result["largest"] for result in results)
    assert all(f"{result['largest']:.3f}" in printed for result in results)
    assert out.with_suffix(".png").read_bytes()[:4] == PNG


def test_cpg(tmp_path):
    printed = run("cpg.py", "--steps=50", "--curve-points=1", "--episodes=1", "--jobs=1", f"--out={tmp_path / 'cpg'}")
    results = json.loads((tmp_path / "cpg.json").read_text())["results"]
    assert [result["label"] for result in results] == ["cpg", "gru"] and "HalfCheetahNoVelPriv" in printed
    assert all(len(result["gait"]["joints"]) == 60 for result in results)
    assert (tmp_path / "cpg.png").read_bytes()[:4] == PNG
