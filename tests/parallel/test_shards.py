"""Servers with a part of the parameters each: packing, dealing, and the ledger."""

import copy

import torch
from torch import nn

from lightning_optreg.optimizers import AdaptiveRevision
from lightning_optreg.parallel import late_step, note_read
from lightning_optreg.parallel.dealing import deal, load_parts, part_of
from lightning_optreg.parallel.ledger import Ledger, Report
from lightning_optreg.parallel.packing import Packing
from lightning_optreg.parallel.shards import DownpourShard, ElasticShard


def test_tensors_of_all_types_travel_in_one_buffer() -> None:
    tensors = [
        torch.randn(3, 5),
        torch.randn(()),
        torch.randn(7, dtype=torch.bfloat16),
        torch.randn(2, 2, dtype=torch.complex64),
        torch.randn(0, 3),
        torch.randn(4, 6, dtype=torch.float64).T,
    ]
    there = Packing(tensors).read(Packing(tensors).write(tensors))
    for tensor, other in zip(tensors, there, strict=True):
        assert torch.equal(tensor, other)
        assert tensor.dtype == other.dtype


def test_every_tensor_is_dealt_once_and_parts_are_about_equal() -> None:
    tensors = [torch.empty(n) for n in (100, 3, 50, 49, 1, 99, 2)]
    parts = deal(tensors, 3)
    assert sorted(position for part in parts for position in part) == list(range(7))
    loads = [sum(tensors[i].numel() for i in part) for part in parts]
    assert max(loads) - min(loads) <= 5


def test_parts_make_the_steps_of_the_whole() -> None:
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(n, 2)) for n in (3, 1, 4)]
    groups = [{"params": weights[:2], "weight_decay": 0.1}, {"params": weights[2:]}]
    whole = torch.optim.Adam(groups, lr=0.1)
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    whole.step()

    start = [weight.detach().clone() for weight in weights]
    positions = deal(weights, 2)
    shards = [DownpourShard(), DownpourShard()]
    for shard, mine in zip(shards, positions, strict=True):
        shard.begin(copy.deepcopy(part_of(whole, mine)), {}, None)  # as if it were sent
        shard.exchange(Report(0), None, [], True)
    gradients = [torch.randn_like(weight) for weight in weights]
    for shard, mine in zip(shards, positions, strict=True):
        packing = Packing([weights[i] for i in mine])
        shard.exchange(Report(0, steps=1), packing.write([gradients[i] for i in mine]), [], False)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    whole.step()
    for shard, mine in zip(shards, positions, strict=True):
        for i, value in zip(mine, shard.packing.views, strict=True):
            assert torch.equal(weights[i], value)

    other = torch.optim.Adam(
        [{"params": [nn.Parameter(t) for t in start[:2]]}, {"params": [nn.Parameter(start[2])]}]
    )
    load_parts(other, positions, [shard.optimizer_state() for shard in shards])
    expected = whole.state_dict()["state"]
    for number, state in other.state_dict()["state"].items():
        assert all(torch.equal(state[name], expected[number][name]) for name in expected[number])


def test_a_server_knows_each_workers_delay() -> None:
    """Two workers of `AdaptiveRevision`: as `late_step` with the reads of each."""
    start = torch.tensor([1.0, -2.0])
    shard = DownpourShard()
    shard.begin(part_of(AdaptiveRevision([start.clone()], lr=0.5), [0]), {}, None)
    alone = start.clone()
    optimizer = AdaptiveRevision([alone], lr=0.5)
    reads = {}
    for worker in (0, 1):
        shard.exchange(Report(worker), None, [], True)
        reads[worker] = note_read(optimizer, 0)
    for update, (worker, value) in enumerate([(0, 1.0), (1, 2.0), (1, -1.0), (0, 0.5)]):
        gradient = torch.full_like(start, value)
        shard.exchange(Report(worker), Packing([gradient]).write([gradient]), [], False)
        alone.grad = gradient
        late_step(optimizer, reads[worker], update)
        assert torch.equal(shard.packing.views[0], alone)
    assert shard.statistics()[1] == [[0, 1], [1, 1], [2, 1], [3, 1]]


def test_settings_of_worker_0_reach_the_optimizer_and_the_others() -> None:
    shard = DownpourShard()
    shard.begin(torch.optim.SGD([torch.ones(1)], lr=1.0), {}, None)
    shard.exchange(Report(0, settings=[{"lr": 0.25}]), None, [], True)
    assert shard.server.optimizer.param_groups[0]["lr"] == 0.25
    _, answer = shard.exchange(Report(1), None, [], True)
    assert answer.settings == [{"lr": 0.25}]
    _, answer = shard.exchange(Report(1, known=answer.version), None, [], True)
    assert answer.settings is None


def test_a_ledger_continues_from_its_state() -> None:
    ledger = Ledger()
    ledger.note(Report(0, steps=3, place=(0, 3), sent=10))
    ledger.note(Report(1, steps=2, place=(1, 0), sent=5))
    ledger.note(Report(1, steps=3, sent=1))
    again = Ledger()
    again.load(ledger.state())
    assert again.steps == {0: 3, 1: 3}
    assert again.places == {0: (0, 3), 1: (1, 0)}
    assert again.bytes == 16
    assert again.answer(Report(0)).steps == 6


def test_a_part_of_the_centre_answers_with_its_difference() -> None:
    shard = ElasticShard(0.25)
    shard.begin([torch.tensor([1.0]), torch.tensor([2.0, 4.0])], {}, None)
    packing = Packing(shard.packing.views)
    sent = packing.write([torch.tensor([3.0]), torch.tensor([2.0, 0.0])])
    content, _ = shard.exchange(Report(1), sent)
    assert [t.tolist() for t in packing.read(content)] == [[0.5], [0.0, -1.0]]
    assert [t.tolist() for t in shard.packing.views] == [[1.5], [2.0, 3.0]]
