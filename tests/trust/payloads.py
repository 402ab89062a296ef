"""What a hostile file could name, and where."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MODULE = "strange_module_of_a_test"


class Trap:
    """A folder with things that leave a mark when they are run or imported.

    Args:
        folder: An empty folder; it is put on `sys.path`.
        patch: Takes it off again.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.mark = folder, folder / "mark"
        touch = f"open({str(self.mark)!r}, 'w').close()\n"
        (folder / f"{MODULE}.py").write_text(f"{touch}from torch import nn\nclass Net(nn.Flatten): pass\n")
        (folder / "hubconf.py").write_text(f"{touch}def net(): pass\n")
        (folder / "settings.yaml").write_text(f"class_path: {MODULE}.Net\n")
        patch.syspath_prepend(str(folder))

    @property
    def was_sprung(self) -> bool:
        """Whether anything was run."""
        return self.mark.exists()


class Command:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def spec(class_path: str, **init_args: Any) -> dict[str, Any]:
    """A class and its arguments, as a configuration has them."""
    return {"class_path": class_path, "init_args": init_args} if init_args else {"class_path": class_path}


def popen(trap: Trap) -> dict[str, Any]:
    """A shell command."""
    return spec("subprocess.Popen", args=["touch", str(trap.mark)])


PAYLOADS: dict[str, Callable[[Trap], Any]] = {
    "a command": popen,
    "a log file": lambda trap: spec("logging.FileHandler", filename=str(trap.mark)),
    "an archive": lambda trap: spec("zipfile.ZipFile", file=str(trap.mark), mode="w"),
    "a shell": lambda trap: spec("os.system", command=f"touch {trap.mark}"),
    "a shell by another path": lambda trap: spec("torch.os.system", command=f"touch {trap.mark}"),
    "a shell by a trusted path": lambda trap: spec(
        "lightning.pytorch.callbacks.timer.os.system", command=f"touch {trap.mark}"
    ),
    "code": lambda trap: spec("builtins.exec", source=f"open({str(trap.mark)!r}, 'w')"),
    "an expression": lambda trap: spec("builtins.eval", source=f"open({str(trap.mark)!r}, 'w')"),
    "torch hub": lambda trap: spec(
        "torch.hub.load", repo_or_dir=str(trap.folder), model="net", source="local", trust_repo=True
    ),
    "any network": lambda trap: spec("torchvision.models.get_model", name="resnet18"),
    "a module that is imported": lambda trap: spec(f"{MODULE}.Net"),
    "only a path": lambda trap: f"{MODULE}.Net",
    "YAML in text": lambda trap: (
        f"{{class_path: subprocess.Popen, init_args: {{args: [touch, '{trap.mark}']}}}}"
    ),
    "YAML in text with a day that is none": lambda trap: (
        f"{{class_path: {MODULE}.Net, dict_kwargs: {{day: 2020-13-45}}}}"
    ),
    "an address": lambda trap: f"file://{trap.folder}/settings.yaml",
    "an address in others' words": lambda trap: f"simplecache::file://{trap.folder}/settings.yaml",
    "keys with dots": lambda trap: {
        "class_path": "torch.nn.Linear",
        "init_args.device.class_path": f"{MODULE}.Net",
    },
}

# Where the payload goes among the hyperparameters of an ImageClassifier.
SPOTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "the network": lambda payload: {"net": payload},
    "an untyped argument": lambda payload: {
        "net": spec("torch.nn.Linear", in_features=1, out_features=1, device=payload)
    },
    "a list": lambda payload: {
        "net": spec("torch.nn.Linear", in_features=1, out_features=1, dtype=[1, [payload]])
    },
    "a mapping": lambda payload: {
        "net": spec("torch.nn.Linear", in_features=1, out_features=1, dtype={"a": payload})
    },
    "further arguments": lambda payload: {
        "net": {"class_path": "torchvision.models.resnet18", "dict_kwargs": {"norm_layer": payload}}
    },
    "deep inside": lambda payload: {
        "net": spec(
            "torch.nn.Sequential", args=[spec("torch.nn.Sequential", args=spec("torch.nn.ReLU", x=payload))]
        )
    },
    "the optimizer": lambda payload: {"optimizer": payload},
    "a callable of the schedule": lambda payload: {
        "lr_scheduler": spec("torch.optim.lr_scheduler.LambdaLR", lr_lambda=payload)
    },
}
