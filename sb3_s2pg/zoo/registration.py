"""Makes RL Zoo know S2PG's algorithms, tasks and hyperparameter files."""

import warnings
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_s2pg import S2PGPPO, S2PGSAC, S2PGTD3
from sb3_s2pg.envs.registration import restore_tasks

# RL Zoo registers its hidden-velocity tasks under the same ids, with a warning each; ours are put back, also where it has been
# imported before
try:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Overriding environment", category=UserWarning)
        import rl_zoo3.import_envs
except ImportError as error:
    raise ImportError(f"sb3_s2pg.zoo needs RL Zoo, install it with `pip install sb3-s2pg[zoo]` ({error})") from error
restore_tasks()

import rl_zoo3.hyperparams_opt  # noqa: E402

from sb3_s2pg.trpo import S2PGTRPO  # noqa: E402 (needs sb3-contrib, which comes with RL Zoo)
from sb3_s2pg.zoo import hyperparams  # noqa: E402

# By the names that RL Zoo's ``--algo`` takes
ZOO_ALGORITHMS: dict[str, type[BaseAlgorithm]] = {
    "s2pg_sac": S2PGSAC,
    "s2pg_td3": S2PGTD3,
    "s2pg_ppo": S2PGPPO,
    "s2pg_trpo": S2PGTRPO,
}


def register(for_playing: bool = False) -> None:
    """
    Add S2PG's algorithms to those of RL Zoo, with their samplers for ``--optimize-hyperparameters``.

    :param for_playing: Whether models are loaded to act only. RL Zoo has a list of off-policy algorithms whose replay
        buffer it then does not allocate, inside of its functions; ours are told by this
    """
    for name, algorithm in ZOO_ALGORITHMS.items():
        acts_only = for_playing and issubclass(algorithm, OffPolicyAlgorithm)
        rl_zoo3.ALGOS[name] = without_replay_buffer(algorithm) if acts_only else algorithm
        rl_zoo3.hyperparams_opt.HYPERPARAMS_SAMPLER[name] = hyperparams.SAMPLERS[name]
        # Older versions of RL Zoo cannot take up a trial of a study, and have no converters
        converters = getattr(rl_zoo3.hyperparams_opt, "HYPERPARAMS_CONVERTER", {})
        if converters:
            converters[name] = hyperparams.make_converter(converters[hyperparams.CONVERTED_LIKE[name]])


def without_replay_buffer(algorithm: Any) -> type[BaseAlgorithm]:
    """
    :param algorithm: Off-policy algorithm
    :return: The same, but what it loads has a replay buffer of a single step unless another size is asked for
    """

    def load(cls: type[BaseAlgorithm], *args: Any, **kwargs: Any) -> BaseAlgorithm:
        return algorithm.load(*args, **{"buffer_size": 1, **kwargs})

    # RL Zoo shows the name of the class
    return type(algorithm.__name__, (algorithm,), {"load": classmethod(load)})


def default_config(algorithm: str) -> str | None:
    """
    :param algorithm: Name of an algorithm, as RL Zoo's ``--algo`` takes it
    :return: Path of its hyperparameter file in this package; None for algorithms of RL Zoo itself
    :raises FileNotFoundError: if the installation is incomplete
    """
    if algorithm not in ZOO_ALGORITHMS:
        return None
    package = Path(__file__).parent.parent
    # In a wheel they are part of the package, in a checkout they lie beside it
    candidates = [folder / "zoo_configs" / f"{algorithm}.yml" for folder in (package, package.parent)]
    for path in candidates:
        if path.is_file():
            return str(path)
    raise FileNotFoundError(f"No hyperparameter file for {algorithm}, looked for {' and '.join(map(str, candidates))}")
