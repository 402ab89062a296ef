"""Split graphs: each process trains a part of the network, and micro-batches flow through all of them.

Huang, Cheng, Bapna et al., "GPipe: efficient training of giant neural networks using pipeline parallelism",
NeurIPS 2019 (arXiv:1811.06965); Narayanan, Harlap, Phanishayee et al., "PipeDream: generalized pipeline
parallelism for DNN training", SOSP 2019 (arXiv:1806.03377), whose 1F1B schedule is used here with one version
of the weights, as in PipeDream-Flush (arXiv:2006.09503).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_
from torch.optim import Optimizer
from typing_extensions import override

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.optimizers import SWATS
from lightning_optreg.strategies.split._placement import Placement
from lightning_optreg.strategies.split._refusals import refuse
from lightning_optreg.strategies.split._schedules import Pipe
from lightning_optreg.strategies.split._stages import plan_stages
from lightning_optreg.trainer.noise_left import compares_losses
from lightning_optreg.trainer.roles import SplitsNetwork

__all__ = ["PipelineParallel"]


@dataclass
class _Step:
    """A training step.

    Attributes:
        targets: Targets of the batch.
        loss: Mean loss, once the network was called.
    """

    targets: Tensor
    loss: Tensor | None = None


class PipelineParallel(SplitsNetwork, DDPStrategy):
    """Cut the network into as many stages as processes, and train it as a pipeline of micro-batches.

    Process k has stage k. A batch is divided into m micro-batches (`torch.tensor_split`); while stage 1
    computes the second, stage 2 computes the first. After the last backward pass each process makes the
    optimizer's step on its own parameters, so weights are never stale: with loss l and micro-batches B_j of a
    batch B,

        g = sum_j |B_j| / |B| grad mean_{i in B_j} l(f(x_i), y_i),   added up in the order of j,

    the gradient of one process that takes the same micro-batches, whatever P and the schedule. Batch
    normalisation sees micro-batches, and updates its running averages m times per batch, as in GPipe. Of P
    stages with equal times each is idle for (P - 1) / (m + P - 1) of a step. With `GPipe` all forward passes
    come before the first backward pass, so a stage keeps m micro-batches; with `1F1B` at most P.

    It takes any LightningModule with the network as attribute `net` and the loss as attribute or method
    `loss(outputs, targets)`, such as `ImageClassifier`, unchanged: `training_step` calls `self.net(x)` once
    and returns `loss` of it, for a batch (x, y, ...); validation, test and prediction may call `self.net` as
    they like. All processes see the same batches and outputs, and so log the same values. Noise layers draw
    from a stream of their stage, seeded from the default generator once per batch.

    Checkpoints hold the whole network and optimizer under their usual names; runs continue with any number of
    processes, or in one without this strategy. A process keeps parameters of other stages on the meta device,
    in `net` and in the optimizer; at the end the module is whole again everywhere.

    Args:
        schedule: `1F1B` or `GPipe`. Default: 1F1B.
        microbatches: Number m of micro-batches, at least 1. Default: 4.
        split: Where stages begin: names of P - 1 layers, in the order of the forward pass; `parameters`, so
            that the largest stage is smallest; or `time`, so that the slowest is fastest, measured once.
        net: Name of the attribute with the network.
        loss: Name of the attribute with the loss.
        timeout: Time that a process waits for another one; it sees at once if that one has died.
        start_method: How processes are started, see Lightning's `DDPStrategy`.
        kwargs: `accelerator`, `parallel_devices`, `cluster_environment`, `checkpoint_io`, `precision_plugin`
            and `process_group_backend`, as for Lightning's `DDPStrategy`.

    Raises:
        ValueError: If an argument is out of its range.
        MisconfigurationException: Before the first step, if the module, network, optimizer or trainer can't
            be used so; the sentence says why.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> strategy = PipelineParallel(microbatches=8, split=["c3"])
        >>> trainer = Trainer(strategy=strategy, accelerator="cpu", devices=2, logger=False)
    """

    def __init__(
        self,
        schedule: Literal["1F1B", "GPipe"] = "1F1B",
        microbatches: int = 4,
        split: Literal["parameters", "time"] | Sequence[str] = "parameters",
        net: str = "net",
        loss: str = "loss",
        timeout: timedelta = timedelta(minutes=30),
        start_method: Literal["popen", "spawn", "fork", "forkserver"] = "popen",
        **kwargs: Any,
    ) -> None:
        super().__init__(timeout=timeout, start_method=start_method, **kwargs)
        check_choice("PipelineParallel", ("1F1B", "GPipe"), schedule=schedule)
        check_range("PipelineParallel", ">= 1", microbatches=microbatches)
        if isinstance(split, str):
            check_choice("PipelineParallel", ("parameters", "time"), split=split)
        self.schedule, self.microbatches = schedule, microbatches
        self.split = split if isinstance(split, str) else list(split)
        self.net, self.loss = net, loss
        self._placement: Placement | None = None
        self._pipe: Pipe | None = None
        self._own: list[nn.Parameter] = []
        self._new: list[Tensor | None] | None = None  # gradients of a step, kept over zero_grad
        self._step: _Step | None = None
        self._checked = False

    # ------------------------------------------------------------------------------------------ batches

    @property
    @override
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """All processes see the same batches."""
        return {"num_replicas": 1, "rank": 0}

    @override
    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module's training step; the network runs forward and backward within it."""
        batch = args[0]
        if not (isinstance(batch, Sequence) and len(batch) >= 2 and isinstance(batch[1], Tensor)):
            raise MisconfigurationException(
                "PipelineParallel: a batch must be a sequence (inputs, targets, ...), got "
                f"{type(batch).__name__}"
            )
        if not self._checked:
            self._check_targets(batch[1])
        self._step = step = _Step(batch[1])
        try:
            output = super().training_step(*args, **kwargs)
        finally:
            self._step = None
        if step.loss is None:
            raise MisconfigurationException(
                f"PipelineParallel: training_step must call self.{self.net} once, it did not"
            )
        if not self._checked:
            returned = output["loss"] if isinstance(output, Mapping) else output
            if isinstance(returned, Tensor):  # otherwise Lightning says what it must return
                self._check_loss(returned, step.loss)
            self._checked = True
        return output

    def _run(self, x: Tensor) -> Tensor:
        """Take the place of the network's `forward`."""
        assert self._pipe is not None
        net = self._network()
        step = self._step
        if step is None or not torch.is_grad_enabled():
            if torch.is_grad_enabled():
                raise MisconfigurationException(
                    f"PipelineParallel: outside of training_step self.{self.net} has no gradients; call it "
                    "within torch.no_grad()"
                )
            noisy = any(layer.training or getattr(layer, "sampling", False) for layer in net.modules())
            return self._pipe.forward(x, training=net.training, noisy=noisy)
        if step.loss is not None:
            raise MisconfigurationException(
                f"PipelineParallel: training_step must call self.{self.net} once, it called it again"
            )
        trainer = self._module().trainer
        # `zero_grad` comes only after the training step, so gradients of a new window are kept aside; others
        # are added up in place, in the order in which one process adds them.
        window = trainer.accumulate_grad_batches
        begins = trainer.fit_loop.batch_idx % window == 0
        before = [parameter.grad for parameter in self._own]
        if begins:
            for parameter in self._own:
                parameter.grad = None
        outputs, step.loss = self._pipe.forward_and_backward(
            x, step.targets, self._loss_function(), 1 / window
        )
        if begins:
            self._new = [parameter.grad for parameter in self._own]
            for parameter, gradient in zip(self._own, before, strict=True):
                parameter.grad = gradient
        return outputs.requires_grad_()

    @override
    def backward(
        self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Put the gradients of the training step in place; the backward pass was part of it."""
        module = self._module()
        loss = self.precision_plugin.pre_backward(closure_loss, module)
        if self._new is not None:
            for parameter, gradient in zip(self._own, self._new, strict=True):
                parameter.grad = gradient
            self._new = None
        return self.precision_plugin.post_backward(loss, module)

    def _check_targets(self, targets: Tensor) -> None:
        first = targets.clone()
        dist.broadcast(first, src=0)
        if not self.reduce_boolean_decision(torch.equal(first, targets)):
            raise MisconfigurationException(
                "PipelineParallel: all processes must get the same batches; seed the loader's order, or "
                "leave use_distributed_sampler=True"
            )

    def _check_loss(self, returned: Tensor, computed: Tensor) -> None:
        if not torch.allclose(returned.detach().float(), computed.float(), rtol=1e-2, atol=1e-4):
            raise MisconfigurationException(
                f"PipelineParallel: training_step must return the mean of self.{self.loss}(outputs, "
                f"targets), it returns {float(returned):.4g} where that is {float(computed):.4g}; put what "
                f"it adds into self.{self.loss}"
            )

    # -------------------------------------------------------------------------------------------- set-up

    @override
    def setup(self, trainer: Trainer) -> None:
        """Cut the network, and move this process's stage to its device."""
        assert self.accelerator is not None
        assert self.model is not None
        self.accelerator.setup(trainer)
        fitting = trainer.state.fn == TrainerFn.FITTING
        refuse(trainer, self._module(), net_name=self.net, loss_name=self.loss, fitting=fitting)
        # Private in Lightning 2.6: the Trainer's `sync_batchnorm` has no public name.
        if self._layer_sync is not None:
            raise MisconfigurationException(
                "PipelineParallel: no two processes have the same layer; set sync_batchnorm=False"
            )
        self._checked = False
        self.model = self.precision_plugin.convert_module(self.model)
        self.model_to_device()
        if fitting:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    @override
    def model_to_device(self) -> None:
        """Cut the network, move this process's stage to its device and let go of the others."""
        module, net = self._module(), self._network()
        setattr(module, self.net, nn.Identity())  # so that only the rest is moved whole
        module.to(self.root_device)
        setattr(module, self.net, net)
        stages = plan_stages(net, self.world_size, self.split, self._example(), self._agree)
        self._placement = Placement(net, stages.owner, self.root_device)
        self._placement.scatter()
        self._own = self._placement.own_parameters()
        self._pipe = Pipe(
            stages,
            self.root_device,
            self.schedule,
            self.microbatches,
            self.precision_plugin.forward_context,
        )
        # On the instance, until the network is whole again, so that it stays where it is, with its names.
        net.forward = self._run
        self.precision_plugin.clip_grad_by_norm = self._clip_by_norm  # type: ignore[method-assign]
        counts = [sum(p.numel() for p in stage.parameters()) for stage in stages.training]
        parts = [f"{name} ({count:,})" for name, count in zip(["", *stages.begins], counts, strict=True)]
        rank_zero_info(
            f"PipelineParallel: {len(counts)} stages, with parameters: from the start{', from '.join(parts)}"
        )

    @override
    def setup_optimizers(self, trainer: Trainer) -> None:
        """Create the optimizer with all parameters; only this process's get gradients."""
        super().setup_optimizers(trainer)
        for optimizer in self.optimizers:
            if compares_losses(optimizer) or isinstance(optimizer, SWATS):
                raise MisconfigurationException(
                    f"PipelineParallel: {type(optimizer).__name__} needs the gradient of the whole network, "
                    "which no process has; take an optimizer that treats each parameter by itself"
                )
            if self._placement is not None:
                self._placement.forget_others(optimizer)

    def _example(self) -> Tensor | None:
        """Return an input of two samples, if the module or the network says what it takes."""
        example = self._module().example_input_array
        if isinstance(example, Tensor):
            return example.detach().cpu()
        shape = getattr(self._network(), "input_shape", None)
        return None if shape is None else torch.zeros(2, *shape)

    def _agree(self, names: list[str]) -> list[str]:
        agreed: list[str] = self.broadcast(names)
        return agreed

    def _module(self) -> LightningModule:
        module = self.lightning_module
        assert module is not None
        return module

    def _network(self) -> nn.Module:
        net: nn.Module = getattr(self._module(), self.net)
        return net

    def _loss_function(self) -> Callable[[Tensor, Tensor], Tensor]:
        loss: Callable[[Tensor, Tensor], Tensor] = getattr(self._module(), self.loss)
        return loss

    @override
    def configure_ddp(self) -> None:
        """Do nothing: processes have different parameters, so no gradients are averaged."""

    # ---------------------------------------------------------------------------------------- gradients

    def _clip_by_norm(self, optimizer: Optimizer, clip_val: float) -> None:
        """Clip by the norm of the whole gradient, computed from the norms of its tensors as torch does."""
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        norms = torch.zeros(2, len(parameters), device=self.root_device)
        for index, parameter in enumerate(parameters):
            if parameter.grad is not None:
                norms[0, index] = torch.linalg.vector_norm(parameter.grad)
                norms[1, index] = 1.0
        dist.all_reduce(norms)
        total = torch.linalg.vector_norm(norms[0][norms[1] > 0.0])
        clip_grads_with_norm_([p for p in parameters if p.grad is not None], clip_val, total)

    # -------------------------------------------------------------------------------------- checkpoints

    @override
    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the whole module's state in the first process; all must call it."""
        state = super().lightning_module_state_dict()
        if self._placement is not None and self._placement.split:
            self._placement.gather_on_first(state, f"{self.net}.")
        return state

    @override
    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the whole optimizer's state in the first process; all must call it."""
        state: dict[str, Any] = super().optimizer_state(optimizer)
        return state if self._placement is None else self._placement.gather_states(optimizer, state)

    @override
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load a whole module's state."""
        if self._placement is not None and self._placement.split:
            own = self._placement.only_own(checkpoint["state_dict"], f"{self.net}.")
            checkpoint = {**checkpoint, "state_dict": own}
        super().load_model_state_dict(checkpoint, strict=strict)

    @override
    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load this process's part of the optimizers' states."""
        assert self._placement is not None
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            self._placement.load_states(optimizer, state)

    # ------------------------------------------------------------------------------------------- the end

    @override
    def on_train_end(self) -> None:
        """Make the module whole."""
        self._gather()

    @override
    def on_validation_end(self) -> None:
        """Make the module whole, unless training goes on."""
        if self._module().trainer.state.fn == TrainerFn.VALIDATING:
            self._gather()

    @override
    def on_test_end(self) -> None:
        """Make the module whole."""
        self._gather()

    @override
    def on_predict_end(self) -> None:
        """Make the module whole."""
        self._gather()

    def _gather(self) -> None:
        assert self._placement is not None
        self._placement.gather_on_all()
        self._let_go()

    def _let_go(self) -> None:
        """Give the network its own `forward` back."""
        vars(self._network()).pop("forward", None)
        vars(self.precision_plugin).pop("clip_grad_by_norm", None)
        self._pipe, self._own, self._new = None, [], None

    @override
    def teardown(self) -> None:
        """Release the devices; after an error the module keeps only this process's stage."""
        if self._placement is None or not self._placement.split:
            super().teardown()
            return
        self._let_go()
        module, net = self._module(), self._network()
        for parameter in self._placement.own_parameters():
            parameter.data = parameter.data.cpu()
        setattr(module, self.net, nn.Identity())  # it can't be moved as a whole
        super().teardown()
        setattr(module, self.net, net)
