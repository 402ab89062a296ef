"""Which classes an untrusted file may name, and what its class paths lead to.

A trusted package is not enough: `torch.hub.load` downloads and runs code, and `torch.os.system` only looks
like torch's. So a class must be of one of a few kinds, be defined in a place for that kind, and be named by a
module of that place. Of functions only those of torchvision that make networks are allowed.
"""

import importlib
import inspect
import re
import sys
import typing
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["Trust", "UntrustedError", "makes_network"]

_MODULE = "torch.nn.modules.module.Module"
_OPTIMIZER = "torch.optim.optimizer.Optimizer"
_SCHEDULE = "torch.optim.lr_scheduler.LRScheduler"
_CALLBACK = "lightning.pytorch.callbacks.callback.Callback"
_STRATEGY = "lightning.pytorch.strategies.strategy.Strategy"
_LOGGER = "lightning.pytorch.loggers.logger.Logger"
_DATA = "lightning.pytorch.core.datamodule.LightningDataModule"
_TRANSFORM = "lightning_optreg.data.transforms.base.BatchTransform"
_VIEWS = "lightning_optreg.data.views.Views"

# Where a class is defined, and what it must be. Left out on purpose: loggers that send data elsewhere,
# metrics that fetch a model, wrappers of torch that take code.
_HOMES: dict[str, tuple[str, ...]] = {
    "lightning_optreg.nets": (_MODULE,),
    "lightning_optreg.layers": (_MODULE,),
    "lightning_optreg.losses": (_MODULE,),
    "lightning_optreg.optimizers": (_OPTIMIZER,),
    "lightning_optreg.schedulers": (_SCHEDULE,),
    "lightning_optreg.callbacks": (_CALLBACK,),
    "lightning_optreg.loggers": (_LOGGER,),
    "lightning_optreg.strategies": (_STRATEGY,),
    "lightning_optreg.data": (_DATA, _TRANSFORM, _VIEWS),
    "lightning.pytorch.callbacks": (_CALLBACK,),
    "lightning.pytorch.loggers.csv_logs": (_LOGGER,),
    "lightning.pytorch.loggers.tensorboard": (_LOGGER,),
    "lightning.pytorch.cli": (_SCHEDULE,),
    "torch.nn.modules": (_MODULE,),
    "torch.optim": (_OPTIMIZER, _SCHEDULE),
    "torchvision.models": (_MODULE,),
    "torchvision.ops": (_MODULE,),
    "torchmetrics.aggregation": (_MODULE,),
    "torchmetrics.classification": (_MODULE,),
    "torchmetrics.regression": (_MODULE,),
}
# Packages that offer classes of the places above under shorter paths.
_SHOWN_BY = ("lightning.pytorch.loggers", "torch.nn", "torchmetrics")
_MAKERS = re.compile(r"torchvision\.models\.[a-z]\w*")  # modules with functions that make classifiers
_PACKAGES = "lightning_optreg, Lightning, torch, torchvision or torchmetrics"
_KINDS = (
    "network, loss, optimizer, schedule, data module, transform, set of views, callback, logger or strategy "
    "that a file may name"
)
_IDENTIFIERS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


class UntrustedError(ValueError):
    """A file names something that may not be built."""


class Trust:
    """The classes that an untrusted file may name.

    Args:
        allow: Packages, or modules in them, whose classes and functions may also be named.
        way_out: How a user adds a package, for messages: "--allow " or "allow=".
        bare: Whether classes may go by their bare names. A checkpoint has full paths, and a bare name may
            mean a class of the same name that somebody else has imported.

    Raises:
        ValueError: If allow holds something that is not a package's name, or a module of Python itself.

    Example:
        >>> Trust().find("torch.nn.ReLU")[0].__name__
        'ReLU'
        >>> Trust().find("subprocess.Popen")
        Traceback (most recent call last):
        lightning_optreg.trust.classes.UntrustedError: subprocess.Popen is not of lightning_optreg, \
Lightning, torch, torchvision or torchmetrics, so nothing of it is imported or built (--allow PACKAGE adds a \
package of yours)
    """

    def __init__(self, allow: Sequence[str] = (), *, way_out: str = "--allow ", bare: bool = False) -> None:
        if isinstance(allow, str):
            allow = (allow,)
        for name in allow:
            if not (isinstance(name, str) and _IDENTIFIERS.fullmatch(name)):
                raise ValueError(f"allow: must be names of packages, such as my_package, got {name!r}")
            if _is_pythons(_top(name)):
                raise ValueError(f"allow: {name} is a part of Python, not a package of yours")
        self.allow = tuple(allow)
        self.way_out, self.bare = way_out, bare

    def is_home(self, path: str) -> bool:
        """Return whether a dotted path begins in a place whose classes may be named."""
        return _within(path, (*_HOMES, *_SHOWN_BY, *self.allow))

    def find(self, path: str) -> list[Any]:
        """Return what a class path or a bare class name leads to.

        Only modules of trusted places are imported. A bare name may mean several classes; those that may not
        be named are left out if there are others.

        Args:
            path: Such as `torch.nn.ReLU` or `LeNet5`.

        Returns:
            The class or function; for a bare name all classes of that name, none if it is unknown.

        Raises:
            UntrustedError: If it may not be named.
        """
        if not _IDENTIFIERS.fullmatch(path):
            raise UntrustedError(f"{path!r} is not a class path")
        if "." not in path:
            return self._find_bare(path)
        if not self.is_home(path):
            if _within(path, ("lightning_optreg", "lightning", "torch", "torchvision", "torchmetrics")):
                raise UntrustedError(f"{path} is not a {_KINDS}, so it is not built{self.hint(path)}")
            raise UntrustedError(
                f"{path} is not of {_PACKAGES}, so nothing of it is imported or built{self.hint(path)}"
            )
        module, _, name = path.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise UntrustedError(f"{path} is not a class that can be built: {error}") from error
        return [self._checked(found, path)]

    def _find_bare(self, name: str) -> list[Any]:
        classes = list(_called(name))
        if classes and not self.bare:
            raise UntrustedError(f"{name} is not a full class path")
        trusted, refused = [], None
        for found in classes:
            try:
                trusted.append(self._checked(found, f"{found.__module__}.{name}"))
            except UntrustedError as error:
                refused = error
        if refused is not None and not trusted:
            raise refused
        return trusted

    def is_allowed(self, found: Any) -> bool:
        """Return whether something is defined in a package that the user has named."""
        return _within(f"{getattr(found, '__module__', None)}.", self.allow)

    def _checked(self, found: Any, path: str) -> Any:
        home = str(getattr(found, "__module__", None))
        if not (inspect.isclass(found) or inspect.isroutine(found)):
            raise UntrustedError(f"{path} is neither a class nor a function, so nothing is built of it")
        if self.is_allowed(found):
            return found
        kinds = {kind for place, kinds in _HOMES.items() if _within(f"{home}.", (place,)) for kind in kinds}
        if inspect.isclass(found):
            if not kinds.isdisjoint(_ancestors(found)):
                return found
        elif _MAKERS.fullmatch(home) and not found.__name__.startswith("_") and makes_network(found):
            return found
        raise UntrustedError(
            f"{path} (defined in {home}) is not a {_KINDS}, so it is not built{self.hint(home)}"
        )

    def hint(self, package: str) -> str:
        """Return the end of a message: how a user can trust a package."""
        package = _top(package)
        if not package.isidentifier() or _is_pythons(package):
            package, what = "PACKAGE", "adds a package of yours"
        else:
            what = "trusts all of it"
        quoted = f'["{package}"]' if self.way_out.endswith("=") else package
        return f" ({self.way_out}{quoted} {what})"


def _is_pythons(package: str) -> bool:
    return package in sys.stdlib_module_names or package in ("builtins", "None")


def _top(path: str) -> str:
    return path.partition(".")[0]


def _within(path: str, places: Sequence[str]) -> bool:
    return any(path.startswith(f"{place}.") for place in places)


def _ancestors(cls: type) -> set[str]:
    return {f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__}


def makes_network(found: Any) -> bool:
    """Return whether something is a class of networks, or a function that is declared to return one.

    Example:
        >>> import os, torchvision
        >>> makes_network(torchvision.models.resnet18), makes_network(os.system)
        (True, False)
    """
    made = found
    if not inspect.isclass(found):
        try:
            made = typing.get_type_hints(found).get("return")
        except (NameError, TypeError, AttributeError):
            return False
    return inspect.isclass(made) and _MODULE in _ancestors(made)


def _called(name: str) -> Iterator[type]:
    """Imported classes of this name that jsonargparse could find by it."""
    kinds = {kind for kinds in _HOMES.values() for kind in kinds}
    waiting = [
        getattr(sys.modules.get(kind.rpartition(".")[0]), kind.rpartition(".")[2], None) for kind in kinds
    ]
    seen: set[type] = set()
    while waiting:
        cls = waiting.pop()
        if cls is None or cls in seen:
            continue
        seen.add(cls)
        waiting += cls.__subclasses__()
        path = f"{cls.__module__}.{cls.__qualname__}"
        if cls.__name__ == name and "._" not in path and "<locals>" not in path:
            yield cls
