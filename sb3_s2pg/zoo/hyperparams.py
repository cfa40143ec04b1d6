"""Search spaces for RL Zoo's ``--optimize-hyperparameters``: those of SAC, TD3, PPO and TRPO, and what memory adds to them."""

from collections.abc import Callable
from typing import Any

import optuna
from rl_zoo3 import hyperparams_opt

# By these names a study keeps what the functions below sample
MEMORY_PARAMETERS = {
    "state_dim",
    "state_kernel",
    "kernel_lr_ratio",
    "state_refresh_rate",
    "critic_history",
    "state_log_std_init",
    "state_ent_coef_init",
    "target_entropy_per_entry",
    "state_noise",
    "max_time_constant",
    "state_ent_coef",
}
# Those that can keep something for long
SEARCHED_KERNELS = ["gru", "lstm", "linear"]


def suggest_off_policy_memory(trial: optuna.Trial) -> dict[str, Any]:
    """
    :param trial: Trial
    :return: What was sampled, by the names that the study keeps
    """
    return {
        "state_dim": trial.suggest_categorical("state_dim", [8, 16, 32, 64]),
        "state_kernel": trial.suggest_categorical("state_kernel", SEARCHED_KERNELS),
        "max_time_constant": trial.suggest_float("max_time_constant", 2.0, 1000.0, log=True),
        "kernel_lr_ratio": trial.suggest_float("kernel_lr_ratio", 0.1, 1.0, log=True),
        "state_refresh_rate": trial.suggest_categorical("state_refresh_rate", [0.0, 0.5, 1.0]),
        "critic_history": trial.suggest_categorical("critic_history", [None, 0, 4, 8, 16]),
    }


def suggest_sac_memory(trial: optuna.Trial) -> dict[str, Any]:
    """
    :param trial: Trial
    :return: What was sampled, by the names that the study keeps
    """
    return {
        **suggest_off_policy_memory(trial),
        "state_log_std_init": trial.suggest_float("state_log_std_init", -5.0, -1.0),
        "state_ent_coef_init": trial.suggest_float("state_ent_coef_init", 1e-3, 1.0, log=True),
        "target_entropy_per_entry": trial.suggest_float("target_entropy_per_entry", -5.0, -1.0),
    }


def suggest_td3_memory(trial: optuna.Trial) -> dict[str, Any]:
    """
    :param trial: Trial
    :return: What was sampled, by the names that the study keeps
    """
    return {
        **suggest_off_policy_memory(trial),
        "state_noise": trial.suggest_float("state_noise", 0.005, 0.3, log=True),
    }


def suggest_on_policy_memory(trial: optuna.Trial) -> dict[str, Any]:
    """
    :param trial: Trial
    :return: What was sampled, by the names that the study keeps
    """
    return {
        "state_dim": trial.suggest_categorical("state_dim", [16, 32, 64, 128]),
        "state_kernel": trial.suggest_categorical("state_kernel", SEARCHED_KERNELS),
        "max_time_constant": trial.suggest_float("max_time_constant", 3.0, 1000.0, log=True),
    }


def suggest_ppo_memory(trial: optuna.Trial) -> dict[str, Any]:
    """
    :param trial: Trial
    :return: What was sampled, by the names that the study keeps
    """
    return {
        **suggest_on_policy_memory(trial),
        "kernel_lr_ratio": trial.suggest_float("kernel_lr_ratio", 0.003, 1.0, log=True),
        "state_log_std_init": trial.suggest_float("state_log_std_init", -6.0, -1.0),
        "state_ent_coef": trial.suggest_float("state_ent_coef", 1e-8, 1e-3, log=True),
    }


def suggest_trpo_memory(trial: optuna.Trial) -> dict[str, Any]:
    """
    :param trial: Trial
    :return: What was sampled, by the names that the study keeps
    """
    return {
        **suggest_on_policy_memory(trial),
        # With little noise the memory uses up the trust region
        "state_log_std_init": trial.suggest_float("state_log_std_init", -3.0, 0.0),
    }


def convert_memory(sampled: dict[str, Any]) -> dict[str, Any]:
    """
    :param sampled: What one of the functions above has sampled
    :return: The arguments of the algorithm
    """
    policy_kwargs = {
        "state_dim": sampled["state_dim"],
        "state_kernel_class": sampled["state_kernel"],
        "state_kernel_kwargs": {"max_time_constant": sampled["max_time_constant"]},
    }
    if "kernel_lr_ratio" in sampled:
        policy_kwargs["kernel_lr_ratio"] = sampled["kernel_lr_ratio"]
    if "state_log_std_init" in sampled:
        policy_kwargs["state_noise_kwargs"] = {"log_std_init": sampled["state_log_std_init"]}
    same_name = ("state_refresh_rate", "critic_history", "state_noise", "state_ent_coef")
    converted = {name: sampled[name] for name in same_name if name in sampled}
    if "state_ent_coef_init" in sampled:
        converted["state_ent_coef"] = f"auto_{sampled['state_ent_coef_init']}"
        converted["target_state_entropy"] = sampled["target_entropy_per_entry"] * sampled["state_dim"]
    return {**converted, "policy_kwargs": policy_kwargs}


def merged(hyperparams: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """
    :param hyperparams: Arguments of an algorithm
    :param others: Arguments that come on top of them
    :return: Both; ``policy_kwargs`` and the arguments of the noise among them are joined rather than replaced
    """
    below, above = dict(hyperparams.get("policy_kwargs") or {}), dict(others.get("policy_kwargs") or {})
    if "state_kernel_class" in above:
        # What is meant for one kernel does not fit another
        below.pop("state_kernel_kwargs", None)
    if "state_noise_kwargs" in below and "state_noise_kwargs" in above:
        above["state_noise_kwargs"] = {**below["state_noise_kwargs"], **above["state_noise_kwargs"]}
    return {**hyperparams, **others, "policy_kwargs": {**below, **above}}


def make_sampler(
    sample: Callable[..., dict[str, Any]], suggest_memory: Callable[[optuna.Trial], dict[str, Any]]
) -> Callable[..., dict[str, Any]]:
    """
    :param sample: RL Zoo's sampler of the memoryless algorithm
    :param suggest_memory: Samples what memory adds
    :return: A sampler as RL Zoo calls it
    """

    def sample_with_memory(trial: optuna.Trial, *args: Any) -> dict[str, Any]:
        return merged(sample(trial, *args), convert_memory(suggest_memory(trial)))

    return sample_with_memory


def make_converter(convert: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """
    :param convert: RL Zoo's converter of the memoryless algorithm
    :return: A converter as RL Zoo calls it: from the parameters of a trial to arguments of the algorithm
    """

    def convert_with_memory(params: dict[str, Any]) -> dict[str, Any]:
        memory = {name: value for name, value in params.items() if name in MEMORY_PARAMETERS}
        others = {name: value for name, value in params.items() if name not in MEMORY_PARAMETERS}
        if others.get("noise_type", "") is None:
            # A trial without action noise: RL Zoo would pass these on to the algorithm
            del others["noise_type"], others["noise_std"]
        return merged(convert(others), convert_memory(memory))

    return convert_with_memory


SAMPLERS = {
    "s2pg_sac": make_sampler(hyperparams_opt.sample_sac_params, suggest_sac_memory),
    "s2pg_td3": make_sampler(hyperparams_opt.sample_td3_params, suggest_td3_memory),
    "s2pg_ppo": make_sampler(hyperparams_opt.sample_ppo_params, suggest_ppo_memory),
    "s2pg_trpo": make_sampler(hyperparams_opt.sample_trpo_params, suggest_trpo_memory),
}
# The memoryless algorithm whose converter RL Zoo has
CONVERTED_LIKE = {"s2pg_sac": "sac", "s2pg_td3": "td3", "s2pg_ppo": "ppo", "s2pg_trpo": "trpo"}
