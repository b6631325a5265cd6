"""SyncBatchNorm and DistributedDataParallel over gloo, and other processes that run converted models."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import fastbn.torch as fbt

CHANNELS = 5


def batches(sizes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sum(sizes), CHANNELS, 4, 3, generator=generator) * 2 + 100
    return [part.to(dtype) for part in x.split(sizes)]


def weights():
    norm = nn.BatchNorm2d(CHANNELS)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, CHANNELS))
        norm.bias.copy_(torch.linspace(-1, 1, CHANNELS))
    return norm


def work(rank, task, sizes, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=len(sizes))
    try:
        torch.save(task(rank, sizes), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def on_ranks(task, sizes, folder):
    mp.spawn(work, (task, sizes, str(folder)), nprocs=len(sizes))
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(len(sizes))]


def synced(rank, sizes):
    norm = fbt.convert_sync_batchnorm(nn.Sequential(weights()))[0]
    x = batches(sizes)[rank]
    if rank:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    y = norm(x)
    y.sin().sum().backward()
    return y, x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var


@pytest.mark.parametrize("sizes", [(3, 5), (1, 4, 2), (0, 3, 4)], ids=str)
def test_ranks_compute_what_one_process_does_with_the_joined_batch(sizes, tmp_path):
    ranks = on_ranks(synced, sizes, tmp_path)
    joined = torch.cat(batches(sizes)).double().requires_grad_()
    norm = weights().double()
    y = norm(joined)
    y.sin().sum().backward()
    for ours, truth in (
        (torch.cat([r[0] for r in ranks]), y),
        (torch.cat([r[1] for r in ranks]), joined.grad),
        (sum(r[2] for r in ranks), norm.weight.grad),
        (sum(r[3] for r in ranks), norm.bias.grad),
        (ranks[0][4], norm.running_mean),
        (ranks[0][5], norm.running_var),
    ):
        assert (ours.double() - truth).abs().max() < 1e-5 * max(1, truth.abs().max())
    for rank in ranks[1:]:  # to the bit
        assert torch.equal(rank[4], ranks[0][4])
        assert torch.equal(rank[5], ranks[0][5])


def mismatched(rank, sizes):
    norm = fbt.SyncBatchNorm(CHANNELS + rank)
    try:
        norm(torch.randn(2, CHANNELS + rank, 3))
    except ValueError as error:
        return str(error)


def test_mismatched_channels_raise_on_every_rank(tmp_path):
    for text in on_ranks(mismatched, (2, 2, 2), tmp_path):
        assert "rank 0: 5 channels for 5 features" in text
        assert "rank 2: 7 channels for 7 features" in text


def too_few(rank, sizes):
    try:
        fbt.SyncBatchNorm(CHANNELS)(torch.randn(1 - rank, CHANNELS))
    except ValueError as error:
        return str(error)


def test_one_value_a_channel_raises_on_every_rank(tmp_path):
    for text in on_ranks(too_few, (1, 0), tmp_path):
        assert "Expected more than 1 value per channel when training" in text


def test_evaluation_and_one_process_are_plain_batch_norm():
    x = batches((4,))[0]
    ours, truth = fbt.SyncBatchNorm(CHANNELS), nn.BatchNorm2d(CHANNELS)
    for _ in range(2):
        assert torch.allclose(ours(x), truth(x), atol=1e-5)
        ours.eval()
        truth.eval()
    assert type(fbt.revert(ours)) is nn.SyncBatchNorm


def test_conversion_to_synced_norms_keeps_state_and_forgets_fusions():
    model = fbt.convert(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    model = fbt.convert_sync_batchnorm(model, process_group=None)
    assert type(model[1]) is fbt.SyncBatchNorm
    assert isinstance(model[1], nn.SyncBatchNorm)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert model(torch.randn(2, 3, 4, 4)).shape == (2, 4, 4, 4)


def parallel(rank, sizes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(CHANNELS, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    found = []
    for net in (fbt.convert(model), model):
        wrapped = nn.parallel.DistributedDataParallel(net)
        wrapped(batches(sizes)[rank]).square().mean().backward()
        found.append([p.grad for p in net.parameters()])
    return found


def test_distributed_data_parallel(tmp_path):
    ranks = on_ranks(parallel, (4, 4), tmp_path)
    for ours, theirs in ranks:
        for got, truth in zip(ours, theirs, strict=True):
            assert (got - truth).abs().max() < 1e-4 * max(1, truth.abs().max())
    for got, other in zip(ranks[0][0], ranks[1][0], strict=True):
        assert torch.equal(got, other)


class Normalized(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, k):
        return fbt.layer_norm(torch.arange(40000.0).reshape(2, 20000) + k, (20000,)), os.getpid()


def test_workers_of_a_data_loader():
    expected = Normalized()[3][0]  # and the parent has started its threads
    loader = torch.utils.data.DataLoader(Normalized(), batch_size=None, num_workers=2)
    found = list(loader)
    assert torch.equal(found[3][0], expected)
    assert os.getpid() not in {int(pid) for _, pid in found}


def train_shared(rank, model):
    torch.set_num_threads(1)
    model(torch.randn(8, 4, generator=torch.Generator().manual_seed(rank)))


def test_a_model_in_shared_memory():
    model = fbt.convert(nn.Sequential(nn.BatchNorm1d(4), nn.ReLU()))
    model.share_memory()
    before = model[0].running_mean.clone()
    mp.spawn(train_shared, (model,), nprocs=1)
    assert not torch.equal(model[0].running_mean, before)  # the child has updated what both see
    assert int(model[0].num_batches_tracked) == 1
