"""Asynchronous elastic averaging with one worker against its rule; servers are in this process."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn

from lightning_optreg.callbacks import ExactResume
from lightning_optreg.parallel import ElasticServer, pull_worker
from lightning_optreg.parallel.dealing import settings_of
from lightning_optreg.parallel.ledger import Answer
from lightning_optreg.strategies import AsyncElasticAveraging
from tests.resume_tools import Regression, SaveAlways, StatefulLoader, assert_identical, final_state
from tests.small_runs import quiet_trainer
from tests.strategies.servers.local_ray import local_ray  # noqa: F401

pytestmark = pytest.mark.usefixtures("local_ray")


class Linear(LightningModule):
    """A linear regression without noise."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(5, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.mse_loss(self.net(x), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def fit(
    module: LightningModule, strategy: Any, ckpt_path: Path | None = None, **options: Any
) -> dict[str, Any]:
    if ckpt_path is None:
        seed_everything(1, verbose=False)
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
    trainer = quiet_trainer(strategy=strategy, devices=1, max_epochs=2, **options)
    trainer.fit(module, StatefulLoader(), StatefulLoader(2), ckpt_path=ckpt_path)
    return {**final_state(trainer, module), "step": trainer.global_step}


class Watch(Callback):
    """What a module has when it is validated and trained."""

    def __init__(self) -> None:
        self.validated: list[Tensor] = []
        self.trained: list[Tensor] = []
        self.saved: list[Tensor] = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated.append(pl_module.net.weight.detach().clone())  # type: ignore[union-attr, operator]
        self.saved.append(trainer.strategy.lightning_module_state_dict()["net.weight"].clone())

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.trained.append(pl_module.net.weight.detach().clone())  # type: ignore[union-attr, operator]
        self.saved.append(trainer.strategy.lightning_module_state_dict()["net.weight"].clone())


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize(("period", "beta"), [(1, 1.0), (4, 0.9), (5, 0.0)])
def test_a_worker_follows_the_rule(period: int, beta: float, shards: int) -> None:
    watch, fitted = Watch(), Linear()
    strategy = AsyncElasticAveraging(period, beta, shards=shards)
    fit(fitted, strategy, callbacks=[watch], num_sanity_val_steps=0)

    module = Linear()
    seed_everything(1, verbose=False)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = list(module.parameters())
    optimizer = module.configure_optimizers()
    server = ElasticServer([parameter.detach().clone() for parameter in x], beta)
    step = 0
    for epoch in range(2):
        loader = StatefulLoader()
        loader.set_epoch(epoch)
        for batch in loader:
            difference = server.exchange(0, [p.detach() for p in x]) if step % period == 0 else None
            optimizer.zero_grad()
            module.training_step(batch, 0).backward()
            optimizer.step()
            if difference is not None:
                pull_worker(x, difference)
            assert torch.equal(watch.trained[step], x[0])
            assert torch.equal(watch.saved[step + epoch], server.centre[0])
            step += 1
        assert torch.equal(watch.validated[epoch], server.centre[0])
    assert torch.equal(fitted.net.weight, server.centre[0])
    assert torch.equal(fitted.net.bias, server.centre[1])


def test_resumed_runs_are_the_same(tmp_path: Path) -> None:
    make = partial(AsyncElasticAveraging, period=4)
    saver = SaveAlways(tmp_path)
    end = fit(Regression("cosine_step"), make(), callbacks=[saver, ExactResume()], enable_checkpointing=True)
    for path in list(saver.paths.values())[2::6]:
        again = fit(Regression("cosine_step"), make(), path, callbacks=[ExactResume()])
        assert_identical(end, again, path.name)


def test_rates_are_for_optimizers_of_one_kind() -> None:
    """A callback may have replaced worker 0's optimizer, and this worker's a few batches later."""
    strategy, module = AsyncElasticAveraging(), Linear()
    strategy.connect(module)
    strategy.number = 1
    adam = torch.optim.Adam(module.parameters(), lr=0.01)
    sgd = torch.optim.SGD(module.parameters(), lr=0.1)
    answer = Answer(3, stop=False, version=2, settings=[{**settings_of(sgd)[0], "lr": 0.5}])
    for optimizer, rate in ((adam, 0.01), (sgd, 0.5)):
        strategy.optimizers = [optimizer]
        strategy.note(answer)
        assert optimizer.param_groups[0]["lr"] == rate


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [({"period": 0}, "period must be >= 1, got 0"), ({"beta": 1.5}, r"beta must be in \[0, 1\], got 1.5")],
)
def test_arguments_are_checked(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"AsyncElasticAveraging: {sentence}"):
        AsyncElasticAveraging(**arguments)


def test_it_is_known_by_name() -> None:
    trainer = quiet_trainer(strategy="AsyncElasticAveraging", devices=2)
    assert isinstance(trainer.strategy, AsyncElasticAveraging)
