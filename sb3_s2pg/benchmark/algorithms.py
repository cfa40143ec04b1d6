"""What the names after ``--algos`` mean: an algorithm, its settings on a task, and what it sees of the task."""

import ast
import importlib
import inspect
import json
import re
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import rl_zoo3
from gymnasium import spaces
from rl_zoo3.utils import get_wrapper_class
from stable_baselines3.common.preprocessing import is_image_space

from sb3_s2pg import BPTTSAC, BPTTTD3
from sb3_s2pg.zoo import register
from sb3_s2pg.zoo.models import config_path, read_entries

register()
rl_zoo3.ALGOS.update(bptt_sac=BPTTSAC, bptt_td3=BPTTTD3)

ACTOR = "sb3_s2pg.envs.ActorObservation"
WINDOW = "sb3_s2pg.envs.WindowObservation"
FULL = "sb3_s2pg.envs.FullObservation"
# Arguments of S2PG's algorithms that mean nothing without noise on z', in its hyperparameter files
OF_NOISE = {*BPTTSAC.without_noise, *BPTTTD3.without_noise, "state_noise_class", "state_noise_kwargs"}
# Settings in these files that are no arguments of the algorithm
OF_RL_ZOO = {
    "callback",
    "env_kwargs",
    "env_wrapper",
    "frame_stack",
    "monitor_kwargs",
    "n_envs",
    "noise_std",
    "noise_type",
    "normalize",
    "vec_env_wrapper",
}
STANDARD_POLICY = re.compile(r"(Mlp|Cnn|MultiInput)((Lstm)?Policy)")


@dataclass(frozen=True)
class Algorithm:
    """What a name stands for."""

    model: str  # as RL Zoo calls it
    config: str  # whose hyperparameter file it has
    about: str
    view: tuple[str, ...] = ()  # wrappers of the task, the first one innermost


def _algorithms() -> dict[str, Algorithm]:
    """:return: The algorithms by name"""
    known = {}
    for name in ("sac", "td3", "ppo", "trpo"):
        known[f"s2pg_{name}"] = Algorithm(f"s2pg_{name}", f"s2pg_{name}", "memory, trained without BPTT")
    for name in ("sac", "td3"):
        known[f"bptt_{name}"] = Algorithm(f"bptt_{name}", f"s2pg_{name}", "memory, trained by truncated BPTT")
    known["ppo_lstm"] = Algorithm("ppo_lstm", "ppo_lstm", "sb3-contrib's RecurrentPPO", (ACTOR,))
    for name, whose in (("sac", "SB3's"), ("td3", "SB3's"), ("ppo", "SB3's"), ("trpo", "sb3-contrib's")):
        known[name] = Algorithm(name, name, f"{whose}, without memory", (ACTOR,))
        known[f"window_{name}"] = Algorithm(name, name, f"{whose}, sees the last observations and actions", (ACTOR, WINDOW))
        known[f"oracle_{name}"] = Algorithm(name, name, f"{whose}, sees what the task hides", (FULL,))
    return known


ALGORITHMS = _algorithms()


@dataclass(frozen=True)
class Contestant:
    """An algorithm as it was asked for, ``name`` or ``name:setting=value,...``, before which ``label=`` may stand."""

    label: str
    algorithm: Algorithm
    changes: dict[str, Any]


def parse_contestant(text: str) -> Contestant:
    """
    :param text: Name of an algorithm, after a colon what differs from its settings, and before an equals sign how to call it
    :return: The same, understood
    :raises ValueError: if there is no such algorithm, or what follows cannot be read
    """
    head, _, changes = text.partition(":")
    label, is_labelled, name = head.rpartition("=")
    if is_labelled and not label.strip():
        raise ValueError(f"{text!r}: nothing stands before the equals sign, write a label, or {text[len(label) + 1 :]!r}")
    if name not in ALGORITHMS:
        raise ValueError(f"unknown algorithm {name!r}, there are {', '.join(ALGORITHMS)}")
    wrong = f"{text!r}: write settings as {name}:gamma=0.98,learning_rate=\"lin_3e-4\",policy_kwargs={{'net_arch': [64]}}"
    try:
        call = ast.parse(f"dict({changes})", mode="eval").body
        keywords = call.keywords if isinstance(call, ast.Call) and not call.args else []
        values = {keyword.arg: ast.literal_eval(keyword.value) for keyword in keywords if keyword.arg is not None}
    except (SyntaxError, ValueError) as error:
        raise ValueError(wrong) from error
    if ":" in text and not values:
        raise ValueError(wrong)
    return Contestant(label.strip() or text, ALGORITHMS[name], values)


def check_changes(contestant: Contestant) -> None:
    """
    :param contestant: Algorithm
    :raises ValueError: if it has no such setting
    """
    model: Any = rl_zoo3.ALGOS[contestant.algorithm.model]
    known = {name for cls in model.__mro__ for name in inspect.signature(cls.__init__).parameters} | OF_RL_ZOO
    if WINDOW in contestant.algorithm.view:
        known.add("window_length")
    unknown = [name for name in contestant.changes if name not in known]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no argument of {model.__name__}, nor a setting of RL Zoo")


def task_name(env: str) -> str:
    """
    :param env: Id of a task, or ``module:id``, where the module registers it
    :return: The id, which is registered now
    :raises ValueError: if there is no such module
    """
    module, _, name = env.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ValueError(f"--env {env}: {error}") from error
    return name


def related_tasks(env: str) -> list[str]:
    """
    :param env: Id of a task
    :return: Its name without version, then those of the tasks that it is made from, which show more or have no privileged key
    """
    name = re.sub(r"-v\d+$", "", env)
    names = [name, re.sub(r"(Priv|Mass)$", "", name)]
    names.append(re.sub(r"NoVel$", "", names[-1]))
    return list(dict.fromkeys(names))


def find_entry(config: str, env: str) -> tuple[str, dict[str, Any]]:
    """
    :param config: Algorithm, as RL Zoo calls it
    :param env: Id of a task
    :return: Name and content of the entry of its hyperparameter file for the task, for another version of it, or for the task
        that it is made from; "defaults" if there is none
    """
    entries = read_entries(config)
    for name in related_tasks(env):
        versions = {int(match[1]): entry for entry in entries if (match := re.fullmatch(rf"{re.escape(name)}-v(\d+)", entry))}
        if versions:
            entry = env if env in versions.values() else versions[max(versions)]
            return f"{entry} in {config_path(config).name}", entries[entry]
    return "defaults", entries.get("default", {})


def policy_keywords(policy_kwargs: str) -> ast.Call:
    """
    :param policy_kwargs: What a hyperparameter file has as a text: RL Zoo evaluates it, with names that mean something there
    :return: The same, parsed
    :raises ValueError: if it is not of the form ``dict(...)``
    """
    call = ast.parse(policy_kwargs.strip(), mode="eval").body
    if not isinstance(call, ast.Call) or call.args:
        raise ValueError(f"policy_kwargs: {policy_kwargs!r} of the hyperparameter file is not of the form dict(name=value)")
    return call


def without_noise(settings: dict[str, Any]) -> dict[str, Any]:
    """
    :param settings: Settings of an algorithm of S2PG
    :return: Those that are left without noise on z'
    """
    left = {key: value for key, value in settings.items() if key not in OF_NOISE}
    policy_kwargs = left.get("policy_kwargs")
    if isinstance(policy_kwargs, dict):
        left["policy_kwargs"] = {key: value for key, value in policy_kwargs.items() if key not in OF_NOISE}
    elif isinstance(policy_kwargs, str):
        call = policy_keywords(policy_kwargs)
        call.keywords = [keyword for keyword in call.keywords if keyword.arg not in OF_NOISE]
        left["policy_kwargs"] = ast.unparse(call)
    return left


def changed_policy_kwargs(policy_kwargs: Any, changes: Any) -> Any:
    """
    :param policy_kwargs: Those of a hyperparameter file: a dictionary, a text, or None
    :param changes: What was asked for
    :return: The same with these changes; what was asked for alone, if it is no dictionary
    """
    if not isinstance(changes, dict):
        return changes
    if not isinstance(policy_kwargs, str):
        return {**(policy_kwargs or {}), **changes}
    call = policy_keywords(policy_kwargs)
    call.keywords = [keyword for keyword in call.keywords if keyword.arg not in changes]
    call.keywords += [ast.keyword(name, ast.parse(repr(value), mode="eval").body) for name, value in changes.items()]
    return ast.unparse(call)


def fitting_policy(policy: str | None, space: spaces.Space, recurrent: bool) -> str:
    """
    :param policy: Policy of an entry, which may belong to a related task; None if there is no entry
    :param space: What the policy sees
    :param recurrent: Whether it is one of RecurrentPPO
    :return: The policy for such observations
    """
    standard = STANDARD_POLICY.fullmatch(policy or "MlpPolicy")
    if standard is None:
        return str(policy)
    if isinstance(space, spaces.Dict):
        kind = "MultiInput"
    elif is_image_space(space):
        kind = "Cnn"
    else:
        kind = "Mlp"
    return kind + ("LstmPolicy" if recurrent else "Policy")


def make_settings(contestant: Contestant, env: str, steps: int) -> tuple[str, dict[str, Any]]:
    """
    :param contestant: Algorithm
    :param env: Id of the task
    :param steps: Number of steps
    :return: Where the settings are from, and the settings as an entry of a hyperparameter file, complete
    :raises ValueError: if it has no such setting, or the task cannot be shown as the algorithm wants to see it
    """
    check_changes(contestant)
    algorithm, changes = contestant.algorithm, dict(contestant.changes)
    source, entry = find_entry(algorithm.config, env)
    settings = without_noise(entry) if algorithm.model.startswith("bptt") else dict(entry)
    task = gym.make(env)
    # Without a privileged key the actor sees everything
    is_dict = isinstance(task.observation_space, spaces.Dict)
    view: list[Any] = [wrapper for wrapper in algorithm.view if is_dict or wrapper != ACTOR]
    if WINDOW in view and "window_length" in changes:
        view[-1] = {WINDOW: {"length": changes.pop("window_length")}}
    # It is None without an "env_wrapper" only
    space = get_wrapper_class({"env_wrapper": view})(task).observation_space  # type: ignore[misc]
    task.close()
    settings["policy"] = fitting_policy(settings.get("policy"), space, algorithm.model == "ppo_lstm")
    of_entry = settings.pop("env_wrapper", None) or []
    wrappers = [*view, *(of_entry if isinstance(of_entry, list) else [of_entry])]
    if wrappers:
        settings["env_wrapper"] = wrappers
    if "policy_kwargs" in changes:
        changes["policy_kwargs"] = changed_policy_kwargs(settings.get("policy_kwargs"), changes["policy_kwargs"])
    # As a file would hold it: no tuples
    return source, json.loads(json.dumps({**settings, **changes, "n_timesteps": steps}))


def evaluation_wrapper(settings: dict[str, Any]) -> Any:
    """
    :param settings: Settings of a run
    :return: What wraps the task for evaluation: as in training, but for a time-limit that the entry shortens episodes with
    """
    wrappers = settings.get("env_wrapper") or []
    wrappers = [wrapper for wrapper in wrappers if "TimeLimit" not in str(wrapper)]
    return get_wrapper_class({"env_wrapper": wrappers}) if wrappers else None
