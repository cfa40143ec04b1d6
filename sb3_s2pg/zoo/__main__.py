"""
``python -m sb3_s2pg.zoo <command> [arguments]``: RL Zoo's commands, with S2PG's algorithms and tasks.

Spellings and flags are RL Zoo's: ``python -m sb3_s2pg.zoo train --help``.
"""

import importlib
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym

# RL Zoo's module, and the function in it; None where the module itself is the script
COMMANDS: dict[str, tuple[str, str | None]] = {
    "train": ("rl_zoo3.train", "train"),
    "enjoy": ("rl_zoo3.enjoy", "enjoy"),
    "record_video": ("rl_zoo3.record_video", None),
    "record_training": ("rl_zoo3.record_training", None),
    "plot_train": ("rl_zoo3.plots", "plot_train"),
    "plot_from_file": ("rl_zoo3.plots", "plot_from_file"),
    "all_plots": ("rl_zoo3.plots", "all_plots"),
    "benchmark": ("rl_zoo3.benchmark", None),
    "push_to_hub": ("rl_zoo3.push_to_hub", None),
    "load_from_hub": ("rl_zoo3.load_from_hub", None),
}
# They load a model to act with it
PLAYING = ("enjoy", "record_video", "push_to_hub")


def redirected(command: Any) -> Any:
    """
    :param command: Command of a sub-process
    :return: The same; if it is one of RL Zoo's scripts, then as a command of this module, where S2PG's algorithms are known
    """
    if isinstance(command, list) and command[:1] == ["python"]:
        # ["python", "-m", "rl_zoo3.record_video", ...] or, in benchmark, ["python", "enjoy.py", ...]
        is_module = command[1] == "-m"
        name = command[2].removeprefix("rl_zoo3.") if is_module else command[1].removesuffix(".py")
        if name in COMMANDS:
            return [sys.executable, "-m", "sb3_s2pg.zoo", name, *command[3 if is_module else 2 :]]
    return command


@contextmanager
def redirected_subprocesses() -> Iterator[None]:
    """RL Zoo starts some of its scripts in processes of their own, which know its own algorithms only."""
    call = subprocess.call

    def redirected_call(command: Any, *args: Any, **kwargs: Any) -> int:
        return call(redirected(command), *args, **kwargs)

    subprocess.call = redirected_call  # type: ignore[assignment]
    try:
        yield
    finally:
        subprocess.call = call


def main() -> None:
    """Run the command that ``sys.argv`` names."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        asked_for_help = len(sys.argv) > 1 and sys.argv[1] in ("-h", "--help")
        message = f"usage: python -m sb3_s2pg.zoo {{{','.join(COMMANDS)}}} [arguments of RL Zoo's command, or --help]"
        if len(sys.argv) > 1 and not asked_for_help:
            message += f"\nerror: unknown command {sys.argv[1]!r}"
        print(message, file=sys.stdout if asked_for_help else sys.stderr)
        sys.exit(0 if asked_for_help else 2)
    command = sys.argv[1]
    # argparse shows the first of them as the program's name
    sys.argv = [f"python -m sb3_s2pg.zoo {command}", *sys.argv[2:]]

    try:
        run(command)
    except (ValueError, AssertionError, OSError, ImportError, gym.error.Error) as error:
        if os.environ.get("SB3_S2PG_TRACEBACK"):
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, gym.error.DependencyNotInstalled):
            message += " (`pip install sb3-s2pg[mujoco]` or `sb3-s2pg[box2d]`, whichever the task needs)"
        print(f"error: {message} [SB3_S2PG_TRACEBACK=1 shows where]", file=sys.stderr)
        sys.exit(1)


def run(command: str) -> None:
    """
    :param command: Name of one of RL Zoo's commands; its arguments are those of ``sys.argv``
    """
    from sb3_s2pg.zoo import register
    from sb3_s2pg.zoo.experiment import S2PGExperimentManager

    register(for_playing=command in PLAYING)
    module_name, function = COMMANDS[command]
    with redirected_subprocesses():
        if function is None:
            runpy.run_module(module_name, run_name="__main__", alter_sys=False)
            return
        module = importlib.import_module(module_name)
        if command == "train":
            module.ExperimentManager = S2PGExperimentManager  # type: ignore[attr-defined]
        getattr(module, function)()


if __name__ == "__main__":
    main()
