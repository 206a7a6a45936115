"""On several ranks whole networks are stepped as on one, and parts of networks are refused by name."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer

STEPS, RANKS = 12, 2
REFUSAL = "LearnedOptimizer does not support"


def model() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def batches(rank: int):
    generator = torch.Generator().manual_seed(rank)
    return [torch.randn(6, 4, generator=generator) for _ in range(STEPS)]


def train(network, optimizer, data) -> list[torch.Tensor]:
    for batch in data:
        optimizer.zero_grad()
        network(batch).square().mean().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in network.parameters()]


def refusal(make) -> str:
    """What an attempt to train says; "" where it goes through."""
    try:
        network, optimizer = make()
        train(network, optimizer, batches(0)[:2])
    except (RuntimeError, ValueError) as error:
        return str(error)
    return ""


# --- two ranks -------------------------------------------------------------------------------------


def on_a_rank(rank: int, folder: str) -> None:
    """What a process of its own does: this file is run as a program, once for each rank."""
    import torch.distributed as dist
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
    from torch.distributed.optim import PostLocalSGDOptimizer, ZeroRedundancyOptimizer
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    ends = {}
    for bucket_view in (False, True):
        network = DistributedDataParallel(model(), gradient_as_bucket_view=bucket_view)
        optimizer = LearnedOptimizer(network.parameters(), lr=1e-2)
        ends["bucket view" if bucket_view else "plain"] = train(network, optimizer, batches(rank))
    network = model()
    local = LearnedOptimizer(network.parameters(), lr=1e-2)
    averaging = PostLocalSGDOptimizer(local, PeriodicModelAverager(period=1, warmup_steps=0))
    ends["averaged"] = train(network, averaging, batches(rank))

    def sharded(**options):
        def make():
            network = FullyShardedDataParallel(model(), device_id=torch.device("cpu"), **options)
            return network, LearnedOptimizer(network.parameters(), lr=1e-2)

        return make

    def sharded_later():
        network = model()
        optimizer = LearnedOptimizer(network.parameters(), lr=1e-2)
        return sharded_model(network), optimizer

    def sharded_model(network):
        return FullyShardedDataParallel(network, device_id=torch.device("cpu"), use_orig_params=True)

    def zero(**options):
        def make():
            network = DistributedDataParallel(model())
            parameters = network.parameters()
            return network, ZeroRedundancyOptimizer(parameters, LearnedOptimizer, lr=1e-2, **options)

        return make

    def second_generation():
        network = model()
        for layer in (network[0], network[2], network):
            fully_shard(layer, mesh=init_device_mesh("cpu", (RANKS,)))
        return network, LearnedOptimizer(network.parameters(), lr=1e-2)

    def tensor_parallel():
        mesh = init_device_mesh("cpu", (RANKS,))
        network = parallelize_module(model(), mesh, {"0": ColwiseParallel()})
        return network, LearnedOptimizer(network.parameters(), lr=1e-2)

    attempts = {
        "FSDP of original parameters": sharded(use_orig_params=True),
        "FSDP of flat parameters": sharded(use_orig_params=False),
        "FSDP that shards gradients": sharded(
            use_orig_params=True, sharding_strategy=ShardingStrategy.SHARD_GRAD_OP
        ),
        "FSDP around a network that has an optimizer": sharded_later,
        "fully_shard": second_generation,
        "tensor parallel": tensor_parallel,
        "ZeRO": zero(),
        "ZeRO with bucket views": zero(parameters_as_bucket_view=True),
        "ZeRO that overlaps": zero(overlap_with_ddp=True),
    }
    said = {name: refusal(attempt) for name, attempt in attempts.items()}
    torch.save({"ends": ends, "said": said}, os.path.join(folder, f"{rank}.pt"))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two ranks came to."""
    folder = str(tmp_path_factory.mktemp("ranks"))
    programs = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for rank in range(RANKS)
    ]
    try:
        printed = [program.communicate(timeout=300)[0].decode() for program in programs]
    finally:
        for program in programs:
            program.kill()
    assert [program.returncode for program in programs] == [0] * RANKS, printed
    return [torch.load(f"{folder}/{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("gradients", ["plain", "bucket view"])
def test_data_parallel_ranks_follow_the_trajectory_of_one_process(ranks, gradients):
    network = model()
    optimizer = LearnedOptimizer(network.parameters(), lr=1e-2)
    alone = train(network, optimizer, [torch.cat(pair) for pair in zip(batches(0), batches(1), strict=True)])
    for rank in ranks:
        for ours, theirs in zip(alone, rank["ends"][gradients], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_gradients_in_buckets_change_nothing(ranks):
    for rank in ranks:
        for ours, theirs in zip(rank["ends"]["plain"], rank["ends"]["bucket view"], strict=True):
            assert torch.equal(ours, theirs)


def test_averaged_models_are_those_of_local_steps_and_a_mean(ranks):
    networks = [model() for _ in range(RANKS)]
    optimizers = [LearnedOptimizer(network.parameters(), lr=1e-2) for network in networks]
    for pair in zip(batches(0), batches(1), strict=True):
        for network, optimizer, batch in zip(networks, optimizers, pair, strict=True):
            train(network, optimizer, [batch])
        with torch.no_grad():
            for twins in zip(*(network.parameters() for network in networks), strict=True):
                mean = torch.stack(twins).mean(0)
                for twin in twins:
                    twin.copy_(mean)
    for ours, theirs in zip(networks[0].parameters(), ranks[1]["ends"]["averaged"], strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("attempt", "named"),
    [
        ("FSDP of original parameters", f"{REFUSAL} parameters of FullyShardedDataParallel"),
        ("FSDP of flat parameters", f"{REFUSAL} parameters of FullyShardedDataParallel"),
        ("FSDP that shards gradients", f"{REFUSAL} parameters of FullyShardedDataParallel"),
        (
            "FSDP around a network that has an optimizer",
            f"{REFUSAL} parameters of FullyShardedDataParallel",
        ),
        ("fully_shard", f"{REFUSAL} distributed parameters"),
        ("tensor parallel", f"{REFUSAL} distributed parameters"),
        ("ZeRO", f"{REFUSAL} ZeroRedundancyOptimizer"),
        ("ZeRO with bucket views", f"{REFUSAL} ZeroRedundancyOptimizer"),
        ("ZeRO that overlaps", "no supported functional optimizer equivalent"),
    ],
)
def test_sharded_networks_are_refused_by_name_on_every_rank(ranks, attempt, named):
    for rank in ranks:
        assert named in rank["said"][attempt]
        if named.startswith(REFUSAL):
            assert "DistributedDataParallel" in rank["said"][attempt].removeprefix(named)


# --- one process -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mark", "value"),
    [("_fsdp_flattened", True), ("_is_sharded", True), ("ds_id", 0), ("tensor_model_parallel", True)],
)
def test_parameters_that_a_library_marked_as_shards_are_refused_when_added_too(mark, value):
    network = model()
    optimizer = LearnedOptimizer(network[0].parameters())
    setattr(network[2].bias, mark, value)
    for make in (
        lambda: LearnedOptimizer(network.parameters()),
        lambda: optimizer.add_param_group({"params": network[2].parameters()}),
    ):
        with pytest.raises(RuntimeError, match=f"{REFUSAL}.*DistributedDataParallel"):
            make()
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("mark", ["_is_sharded", "tensor_model_parallel"])
def test_parameters_that_a_library_marked_as_whole_are_stepped(mark):
    network = model()
    for parameter in network.parameters():
        setattr(parameter, mark, False)
    assert refusal(lambda: (network, LearnedOptimizer(network.parameters()))) == ""


def flat_twins(group) -> list[nn.Parameter]:
    return [nn.Parameter(torch.cat([p.detach().flatten() for p in group["params"]]))]


def test_flat_partitions_in_the_place_of_the_parameters_are_refused_and_do_not_move():
    """So DeepSpeed's ZeRO and Megatron's distributed optimizer treat an optimizer that they are handed."""
    network = model()
    optimizer = LearnedOptimizer([{"params": layer.parameters()} for layer in (network[0], network[2])])
    for twin in (optimizer, copy.deepcopy(optimizer)):
        for group in twin.param_groups:
            group["params"] = flat_twins(group)
        flat = twin.param_groups[0]["params"][0]
        flat.grad = torch.ones_like(flat)
        before = flat.detach().clone()
        with pytest.raises(RuntimeError, match=f"{REFUSAL} flat partitions"):
            twin.step()
        assert torch.equal(flat, before)


def test_parameters_may_be_exchanged_for_others_of_their_kind():
    """Master copies in float32, and tensors that were pruned or grown."""
    network = model()
    optimizer = LearnedOptimizer(network.parameters())
    for rows in (8, 5):
        optimizer.param_groups[0]["params"] = [
            nn.Parameter(parameter.detach()[:rows].clone()) for parameter in network.parameters()
        ]
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    vector = nn.Parameter(torch.ones(7))
    optimizer = LearnedOptimizer([vector])
    optimizer.param_groups[0]["params"] = [nn.Parameter(torch.ones(4))]
    optimizer.param_groups[0]["params"][0].grad = torch.ones(4)
    optimizer.step()


def test_biases_alone_are_stepped_when_the_weights_group_is_taken_out():
    network = model()
    groups = [{"params": [layer.weight for layer in (network[0], network[2])]}]
    groups += [{"params": [layer.bias for layer in (network[0], network[2])]}]
    optimizer = LearnedOptimizer(groups)
    del optimizer.param_groups[0]
    assert refusal(lambda: (network, optimizer)) == ""


def test_an_optimizer_for_each_parameter_that_is_stepped_in_backward_is_refused():
    from torch.distributed.optim import _apply_optimizer_in_backward

    with pytest.raises(RuntimeError, match=f"{REFUSAL} an optimizer for each parameter"):
        _apply_optimizer_in_backward(LearnedOptimizer, model().parameters(), {"lr": 1e-2})


@pytest.mark.parametrize("hook", ["parameter", "layer"])
def test_a_step_within_the_backward_that_makes_its_gradients_is_refused(hook):
    network = model()
    for layer in (network[0], network[2]):
        if hook == "layer":
            own = LearnedOptimizer(layer.parameters())
            layer.register_full_backward_hook(lambda *_, own=own: own.step())
        else:
            for parameter in layer.parameters():
                own = LearnedOptimizer([parameter])
                parameter.register_post_accumulate_grad_hook(lambda _, own=own: own.step())
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(RuntimeError, match=rf"{REFUSAL} steps within backward\(\).*call step\(\) after"):
        network(torch.ones(2, 4, requires_grad=True)).sum().backward()
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_problem_that_is_solved_within_a_backward_is_another_matter():
    class Solve(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, slope):
            with torch.enable_grad():
                inner = model()
                end = train(inner, LearnedOptimizer(inner.parameters(), lr=1e-2), batches(0))
            return slope * end[0].mean()

    x = torch.ones(3, requires_grad=True)
    Solve.apply(x).sum().backward()
    alone = model()
    expected = train(alone, LearnedOptimizer(alone.parameters(), lr=1e-2), batches(0))[0].mean()
    assert torch.equal(x.grad, expected.expand(3))


def test_an_optimizer_of_the_parameters_of_one_worker_is_refused():
    """torch.distributed.optim.DistributedOptimizer makes one on each worker of a network dealt out by RPC."""
    optimizer = pytest.importorskip("torch.distributed.optim.optimizer")
    remote = [SimpleNamespace(local_value=lambda p=p: p) for p in model().parameters()]
    with pytest.raises(RuntimeError, match=f"{REFUSAL} torch.distributed.optim.DistributedOptimizer"):
        optimizer._LocalOptimizer(LearnedOptimizer, remote, lr=1e-2)


def test_places_are_those_among_all_parameters_whether_or_not_they_are_frozen():
    networks = [model(), model()]
    networks[1][0].requires_grad_(False)
    for network in networks:
        optimizer = LearnedOptimizer(network.parameters(), lr=1e-2)
        for seed in range(4):
            generator = torch.Generator().manual_seed(seed)
            for parameter in network[2].parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
    for ours, theirs in zip(networks[0][2].parameters(), networks[1][2].parameters(), strict=True):
        assert torch.equal(ours, theirs)


if __name__ == "__main__":
    on_a_rank(int(sys.argv[1]), sys.argv[2])
