"""The whole of a trainer in one file."""

import json
import os
import pathlib
import pickle
import tempfile
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from imitation.data.buffer import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_s2pg.version import __version__

if TYPE_CHECKING:
    from sb3_s2pg.gail.trainer import StatefulAdversarialTrainer

FORMAT = "sb3_s2pg trainer 1"
ABOUT, GENERATOR, DISCRIMINATOR = "about.json", "generator.zip", "discriminator.pth"
GENERATOR_SAMPLES, REPLAY_BUFFER = "generator_samples.pkl", "replay_buffer.pkl"
COUNTERS = ("_global_step", "_disc_step", "_horizon")


def about(trainer: "StatefulAdversarialTrainer") -> dict[str, str]:
    """
    :param trainer: A trainer
    :return: What a saved trainer has to have in common with the one that goes on from it
    """
    return {
        "format": FORMAT,
        "trainer": type(trainer).__name__,
        "generator": type(trainer.gen_algo).__name__,
        "discriminator optimizer": type(trainer._disc_opt).__name__,
    }


def save_trainer(trainer: "StatefulAdversarialTrainer", path: str | pathlib.Path) -> None:
    """
    :param trainer: What to save
    :param path: File to write; what was there is replaced when all has been written
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the file, so that it can take its place in one step
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        folder = pathlib.Path(name)
        (folder / ABOUT).write_text(json.dumps({**about(trainer), "version": __version__}))
        trainer.gen_algo.save(folder / GENERATOR)
        if isinstance(trainer.gen_algo, OffPolicyAlgorithm):
            trainer.gen_algo.save_replay_buffer(folder / REPLAY_BUFFER)
        with (folder / GENERATOR_SAMPLES).open("wb") as file:
            pickle.dump(trainer._gen_replay_buffer, file)
        state = {
            "reward_net": trainer._reward_net.state_dict(),
            "optimizer": trainer._disc_opt.state_dict(),
            "counters": {counter: _plain(getattr(trainer, counter)) for counter in COUNTERS},
            "random": _random_state(),
        }
        th.save(state, folder / DISCRIMINATOR)
        archive = folder / "archive"
        members = [member for member in folder.iterdir() if member != archive]
        with zipfile.ZipFile(archive, "w") as file:
            for member in members:
                file.write(member, member.name)
        os.replace(archive, path)


def resume_trainer(trainer: "StatefulAdversarialTrainer", path: str | pathlib.Path) -> None:
    """
    :param trainer: A trainer that was built as the saved one was
    :param path: What ``save_trainer`` has written
    :raises ValueError: if the file is broken or of another kind of trainer; the trainer is as it was then
    """
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        _unpack(path, folder, about(trainer))
        state = th.load(folder / DISCRIMINATOR, map_location=trainer.gen_algo.device, weights_only=True)
        _check_discriminator(trainer, state, path)
        gen_algo = _load_generator(trainer, folder, path)
        with (folder / GENERATOR_SAMPLES).open("rb") as file:
            samples = pickle.load(file)
    ours = trainer._gen_replay_buffer._buffer.sample_shapes
    if not isinstance(samples, ReplayBuffer) or samples._buffer.sample_shapes != ours:
        raise ValueError(f"{path} holds samples of a generator in another environment, this one has {ours}")

    # Nothing below can fail on what was read
    trainer._reward_net.load_state_dict(state["reward_net"])
    trainer._disc_opt.load_state_dict(state["optimizer"])
    for counter, value in state["counters"].items():
        setattr(trainer, counter, value)
    trainer._gen_replay_buffer = samples
    gen_algo.schedule_timesteps = None
    gen_algo.set_logger(trainer.logger)
    gen_algo.set_env(trainer.venv_train)
    trainer.gen_algo = gen_algo
    _set_random_state(state["random"])


def _unpack(path: str | pathlib.Path, folder: pathlib.Path, wanted: dict[str, str]) -> None:
    """
    :param path: A saved trainer
    :param folder: Where its parts are to go
    :param wanted: What has to be true of it
    :raises ValueError: if the file is broken or of another kind
    """
    try:
        with zipfile.ZipFile(path) as file:
            broken = file.testzip()
            if broken is not None:
                raise zipfile.BadZipFile(f"{broken} is damaged")
            found = json.loads(file.read(ABOUT)) if ABOUT in file.namelist() else {}
            if found.get("format") != FORMAT:
                raise ValueError(
                    f"{path} is not a saved trainer: what was written by the save() of S2PGGAIL or S2PGAIRL is needed"
                )
            file.extractall(folder)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is broken, or not a saved trainer: {error}") from error
    for what, value in wanted.items():
        if found.get(what) != value:
            raise ValueError(f"{path} was saved with the {what} {found.get(what)}, this trainer has {value}: build it alike")


def _check_discriminator(trainer: "StatefulAdversarialTrainer", state: dict[str, Any], path: Any) -> None:
    shapes, ours = (
        {name: tuple(value.shape) for name, value in net.items() if isinstance(value, th.Tensor)}
        for net in (state["reward_net"], trainer._reward_net.state_dict())
    )
    if shapes != ours:
        raise ValueError(f"{path} was saved with the reward net {shapes}, this trainer has {ours}: build it alike")
    probe = trainer._disc_opt_cls(trainer._reward_net.parameters(), **trainer._disc_opt_kwargs)
    try:
        probe.load_state_dict(state["optimizer"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} was saved with another optimizer of the discriminator: {error}") from error


def _load_generator(trainer: "StatefulAdversarialTrainer", folder: pathlib.Path, path: Any) -> Any:
    ours = trainer.gen_algo
    loaded = type(ours).load(folder / GENERATOR, device=ours.device)
    for name in ("observation_space", "action_space", "n_envs"):
        if getattr(loaded, name) != getattr(ours, name):
            raise ValueError(
                f"{path} was saved with {name}={getattr(loaded, name)}, gen_algo has {getattr(ours, name)}: build it alike"
            )
    if isinstance(loaded, OffPolicyAlgorithm):
        loaded.load_replay_buffer(folder / REPLAY_BUFFER)
    return loaded


def _plain(value: Any) -> int | None:
    return None if value is None else int(value)


def _random_state() -> dict[str, Any]:
    """:return: State of the generators that SB3, torch and ``imitation`` draw from, as tensors and numbers"""
    _, keys, *numbers = np.random.get_state(legacy=True)
    cuda = th.cuda.get_rng_state_all() if th.cuda.is_available() else []
    return {
        "torch": th.get_rng_state(),
        "cuda": cuda,
        "numpy": th.as_tensor(np.asarray(keys, dtype=np.int64)),
        "numpy_rest": numbers,
    }


def _set_random_state(state: dict[str, Any]) -> None:
    th.set_rng_state(state["torch"].cpu())
    if len(state["cuda"]) == (th.cuda.device_count() if th.cuda.is_available() else 0):
        th.cuda.set_rng_state_all([part.cpu() for part in state["cuda"]])
    np.random.set_state(("MT19937", state["numpy"].cpu().numpy().astype(np.uint32), *state["numpy_rest"]))
