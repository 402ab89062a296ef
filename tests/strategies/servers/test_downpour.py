"""Downpour with one worker against plain training, and what it refuses; servers are in this process."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import BatchSizeFinder, WeightAveraging
from torch import Tensor, nn

from lightning_optreg import optimizers
from lightning_optreg.callbacks import ExactResume
from lightning_optreg.parallel import DownpourServer, DownpourWorker
from lightning_optreg.strategies import Downpour
from lightning_optreg.strategies.servers import _ray_cluster
from tests.contracts.optimizers import RULES, make
from tests.contracts.runs import checkpoint_every_step
from tests.resume_tools import Regression, SaveAlways, StatefulLoader, assert_identical, final_state
from tests.small_runs import quiet_trainer
from tests.strategies.servers.local_ray import local_ray  # noqa: F401

pytestmark = pytest.mark.usefixtures("local_ray")


class Small(LightningModule):
    """Two groups, of which one has no weight decay, and any optimizer."""

    def __init__(self, make: Any, *, manual: bool = False) -> None:
        super().__init__()
        self.make, self.automatic_optimization = make, not manual
        self.net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.mse_loss(self.net(x), y)
        if not self.automatic_optimization:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def configure_optimizers(self) -> Any:
        weights = [p for p in self.parameters() if p.ndim > 1]
        biases = [p for p in self.parameters() if p.ndim == 1]
        return self.make([{"params": weights, "weight_decay": 0.1}, {"params": biases}])


def fit(module: LightningModule, strategy: Any = "auto", **options: Any) -> dict[str, Any]:
    ckpt_path = options.pop("ckpt_path", None)
    if ckpt_path is None:
        seed_everything(1, verbose=False)
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
    trainer = quiet_trainer(strategy=strategy, devices=1, **{"max_epochs": 2, **options})
    loaders = [StatefulLoader(), StatefulLoader(2)] if isinstance(module, Regression) else [StatefulLoader()]
    trainer.fit(module, *loaders, ckpt_path=ckpt_path)
    values = {name: value for name, value in trainer.callback_metrics.items() if "optreg" not in name}
    return {**final_state(trainer, module), "step": trainer.global_step, "metrics": values}


OPTIMIZERS: dict[str, Any] = {
    **{
        name: partial(getattr(torch.optim, name), lr=0.01)
        for name in ("SGD", "Adagrad", "Adam", "AdamW", "RMSprop", "NAdam", "Adadelta")
    },
    **{name: partial(make, name) for name in RULES},
}


@pytest.mark.parametrize(
    "name",
    [
        # torch's, of which the paper's, and of this package one that keeps most
        pytest.param(name, marks=[] if name in ("Adagrad", "Adam", "SGD", "SWATS") else pytest.mark.slow)
        for name in OPTIMIZERS
    ],
)
def test_one_worker_is_plain_training_with_any_optimizer(name: str) -> None:
    assert_identical(
        fit(Small(OPTIMIZERS[name])), fit(Small(OPTIMIZERS[name]), Downpour(), max_epochs=2), name
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_clip_val": 0.1},
        {"accumulate_grad_batches": 4},
        {"precision": "bf16-mixed"},
        {"max_steps": 8, "max_epochs": -1},
        {"callbacks": "averaging"},
    ],
    ids=str,
)
@pytest.mark.parametrize("shards", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_one_worker_is_plain_training_in_any_run(options: dict[str, Any], shards: int) -> None:
    def run(strategy: Any) -> dict[str, Any]:
        more = dict(options)
        if "callbacks" in more:
            more["callbacks"] = [WeightAveraging()]
        return fit(Regression("cosine_step"), strategy, **more)

    assert_identical(run("auto"), run(Downpour(shards=shards)))


@pytest.mark.parametrize("schedule", ["cosine_epoch", "plateau_epoch"])
def test_schedules_reach_the_server(schedule: str) -> None:
    assert_identical(fit(Regression(schedule)), fit(Regression(schedule), Downpour()))


def test_manual_optimization_works() -> None:
    make = OPTIMIZERS["Adam"]
    assert_identical(fit(Small(make, manual=True)), fit(Small(make, manual=True), Downpour()))


@pytest.mark.parametrize(("n_push", "n_fetch"), [(2, 3), (3, 2), (4, 4)])
def test_a_worker_that_seldom_calls_follows_the_rules(n_push: int, n_fetch: int) -> None:
    """The rules themselves are compared with the algorithm in tests/parallel; an epoch ends with both."""
    make = partial(torch.optim.Adagrad, lr=0.1)
    fitted = Small(make)
    fit(fitted, Downpour(n_push, n_fetch))

    module = Small(make)
    seed_everything(1, verbose=False)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    local = [p for p in module.parameters() if p.ndim > 1] + [p for p in module.parameters() if p.ndim == 1]
    on_server = [p.detach().clone() for p in local]
    server = DownpourServer(make([{"params": on_server[:2], "weight_decay": 0.1}, {"params": on_server[2:]}]))
    worker = DownpourWorker(local, n_push, n_fetch)
    server.fetch(0)
    loader = StatefulLoader()
    for epoch in range(2):
        loader.set_epoch(epoch)
        for batch in loader:
            module.zero_grad()
            module.training_step(batch, 0).backward()
            pushed, fetch = worker.step([p.grad for p in local], [0.1] * 4)
            if pushed is not None:
                server.push(0, pushed)
            if fetch:
                with torch.no_grad():
                    torch._foreach_copy_(local, server.fetch(0))
        left = worker.flush()
        if left is not None:
            server.push(0, left)
        with torch.no_grad():
            torch._foreach_copy_(local, server.fetch(0))
    assert_identical(dict(module.state_dict()), dict(fitted.state_dict()))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[dict[str, Any], list[Path]]:
    """A run of Downpour, and checkpoints of it at moments of all kinds."""
    saver = SaveAlways(tmp_path)
    end = fit(
        Regression("cosine_step"), Downpour(), callbacks=[saver, ExactResume()], enable_checkpointing=True
    )
    return end, list(saver.paths.values())


def test_resumed_runs_are_the_same(saved: tuple[dict[str, Any], list[Path]]) -> None:
    """With this strategy, and without: a checkpoint is an ordinary one."""
    end, paths = saved
    assert len(paths) > 10
    for number, path in enumerate(paths[2::6]):
        for strategy in (Downpour(shards=1 + number % 2), "auto"):
            again = fit(Regression("cosine_step"), strategy, callbacks=[ExactResume()], ckpt_path=path)
            assert_identical(end, again, f"{path.name} {strategy}")


def test_a_checkpoint_of_plain_training_can_be_continued(tmp_path: Path) -> None:
    end = fit(
        Regression("cosine_step"),
        callbacks=[checkpoint_every_step(tmp_path, 4), ExactResume()],
        enable_checkpointing=True,
    )
    again = fit(
        Regression("cosine_step"), Downpour(), callbacks=[ExactResume()], ckpt_path=tmp_path / "step=4.ckpt"
    )
    assert_identical(end, again)


class Leaping(Downpour):
    """After its second step, other workers seem to have made three more."""

    def after_batch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 2:
            self._total += 3
        super().after_batch(trainer, pl_module)


class Marks(Callback):
    """Keeps the step at which it was last called."""

    step = 0

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.step = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}


def test_checkpoints_of_steps_in_between_come_after_other_callbacks(tmp_path: Path) -> None:
    callbacks = [checkpoint_every_step(tmp_path), ExactResume(), Marks()]
    options = {"callbacks": callbacks, "enable_checkpointing": True, "max_epochs": 1}
    fit(Small(OPTIMIZERS["SGD"]), Leaping(), **options)  # warnings are errors
    saved = [torch.load(path, weights_only=True) for path in tmp_path.glob("*.ckpt")]
    steps = {each["global_step"]: each["callbacks"]["Marks"]["step"] for each in saved}
    own = {step: step for step in (1, 5, 6, 7, 8, 9)}
    assert steps == {**own, 2: 5, 3: 5, 4: 5}


def test_a_fit_after_a_fit_begins_anew() -> None:
    strategy = Downpour()
    trainer = quiet_trainer(strategy=strategy, devices=1, max_epochs=1)
    module = Small(OPTIMIZERS["SGD"])
    trainer.fit(module, StatefulLoader())
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, StatefulLoader())
    assert trainer.global_step == 12
    assert sum(type(each).__name__ == "ServerHooks" for each in trainer.callbacks) == 1  # type: ignore[attr-defined]


class Two(Small):
    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD([p], lr=0.1) for p in self.parameters()]


class Growing(Small):
    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.net.append(nn.Linear(1, 1))
            optimizer: Any = self.optimizers()
            optimizer.add_param_group({"params": list(self.net[-1].parameters())})


def lbfgs(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.LBFGS([p for group in groups for p in group["params"]])


SGD, NAG = OPTIMIZERS["SGD"], partial(optimizers.NAGConvex, lr=0.1)


@pytest.mark.parametrize(
    ("module", "strategy", "options", "sentence"),
    [
        (Two(None, manual=True), {}, {}, "needs one optimizer, the module has 4"),
        (Small(lbfgs), {}, {}, "LBFGS evaluates the loss several times"),
        (Small(optimizers.SWATS), {"shards": 2}, {}, "SWATS decides over all parameters .* 2 servers"),
        (Small(partial(NAG, restart="gradient")), {"shards": 2}, {}, "NAGConvex decides over all parameters"),
        (Small(partial(NAG, restart="function")), {}, {}, "NAGConvex starts over by the loss"),
        (Small(SGD), {"shards": 5}, {}, "at most the number of parameter tensors, 4, got 5"),
        (Small(SGD), {}, {"num_nodes": 2}, "Ray knows the nodes, so num_nodes must be 1, got 2"),
        (Small(SGD), {}, {"callbacks": [BatchSizeFinder()]}, "BatchSizeFinder doesn't work with"),
        (Growing(SGD), {}, {}, "neither it nor its parameters may change"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_work_is_refused(
    module: LightningModule, strategy: dict[str, Any], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(MisconfigurationException, match=sentence) as caught:
        fit(module, Downpour(**strategy), **options)
    assert str(caught.value).startswith("Downpour: ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"n_push": 0}, "n_push must be >= 1, got 0"),
        ({"n_fetch": 0}, "n_fetch must be >= 1, got 0"),
        ({"warm_start_steps": -1}, "warm_start_steps must be >= 0, got -1"),
        ({"shards": 0}, "shards must be >= 1, got 0"),
        ({"workers": 0}, "workers must be >= 1, got 0"),
        ({"timeout": 0.0}, r"timeout must be in \(0, inf"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"Downpour: {sentence}"):
        Downpour(**arguments)


def test_without_ray_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ray_cluster, "find_spec", lambda name: None)
    with pytest.raises(
        MisconfigurationException, match=r"needs Ray.*pip install 'lightning-optreg\[cluster\]'"
    ):
        fit(Small(OPTIMIZERS["SGD"]), Downpour())


def test_it_is_known_by_name() -> None:
    trainer = quiet_trainer(strategy="Downpour", devices=3)
    assert isinstance(trainer.strategy, Downpour)
    assert trainer.strategy.workers == 3
