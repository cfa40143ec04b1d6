"""What the examples share: writing results."""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def save_json(path: Path, result: dict[str, Any]) -> None:
    """
    :param path: Where to write, without suffix
    :param result: What to write; versions and machine are added
    """
    packages = ("stable-baselines3", "gymnasium", "torch", "numpy")
    environment = {name: version(name) for name in packages} | {"python": platform.python_version()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps({**result, "versions": environment}, indent=2) + "\n")
    print(f"wrote {path.with_suffix('.json')}")


def save_figure(path: Path, figure: Figure) -> None:
    """
    :param path: Where to write, without suffix
    :param figure: The picture
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=110)
    print(f"wrote {path.with_suffix('.png')}")
