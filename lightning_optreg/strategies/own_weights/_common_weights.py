"""Puts the common weights into the module before other callbacks see it, and logs."""

from typing import Any, Protocol

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelPruning, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from typing_extensions import override

from lightning_optreg.strategies.refused_callbacks import refused
from lightning_optreg.trainer.queries import is_logging_step

__all__ = ["CommonWeights"]

_REFUSED: dict[type[Callback], str] = {
    WeightAveraging: "averages those of each by themselves",
    StochasticWeightAveraging: "averages those of each by themselves",
    ModelPruning: "chooses in each by itself what to prune",
}


class HasCommonWeights(Protocol):
    """A strategy whose workers have weights of their own, and common ones; see `OwnWeightsStrategy`."""

    log_name: str
    bytes: int
    distance: Tensor | None

    def check(self, trainer: Trainer) -> None: ...

    def put_common(self) -> None: ...

    def end_in_failure(self, exception: BaseException) -> None: ...


class CommonWeights(Callback):
    """Exchanges weights in the module before other callbacks see it, and logs."""

    def __init__(self, strategy: HasCommonWeights) -> None:
        self._strategy = strategy

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        name = type(self._strategy).__name__
        for callback, does in refused(trainer, _REFUSED):
            raise MisconfigurationException(
                f"{name}: its workers have weights of their own, but {callback} {does}; remove one of the two"
            )
        self._strategy.check(trainer)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._strategy.put_common()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._strategy.distance is not None and is_logging_step(trainer):
            path = f"optreg/{self._strategy.log_name}"
            pl_module.log(f"{path}/distance", self._strategy.distance, batch_size=1)
            pl_module.log(f"{path}/bytes", float(self._strategy.bytes), batch_size=1)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._strategy.put_common()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._strategy.end_in_failure(exception)
