"""Imported before anything that needs the optional library ``imitation``: says what to install where it is missing."""

try:
    import imitation.algorithms.adversarial.common
    import imitation.algorithms.base
    import imitation.data.serialize  # noqa: F401
except ImportError as error:
    raise ImportError(
        'Learning from demonstrations needs the library imitation: `pip install "sb3-s2pg[imitation]"`, or, to keep the '
        "newest stable-baselines3, `pip install --no-deps imitation==1.0.1` and "
        f"`pip install datasets jsonpickle tensorboard tqdm rich` ({error})"
    ) from error
