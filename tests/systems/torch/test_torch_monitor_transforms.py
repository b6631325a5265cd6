"""fastbn.monitor on torch modules in transforms, with parameters made of others, and with results of other kinds."""

import warnings

import pytest
import torch

from fastbn.monitor import Monitor


@pytest.mark.parametrize(
    "transformed",
    [
        lambda module, x: torch.vmap(module)(x),
        lambda module, x: torch.func.grad(lambda v: module(v).square().sum())(x),
        lambda module, x: torch.func.jacrev(module)(x[0]),
    ],
    ids=["vmap", "grad", "jacrev"],
)
def test_a_transform_is_left_alone(transformed):
    module, x = torch.nn.LayerNorm(8), torch.randn(4, 8)
    expected = transformed(module, x)
    with Monitor({"norm": module}) as monitor:
        torch.testing.assert_close(transformed(module, x), expected, rtol=0, atol=0)
        monitor.step()
    assert monitor.latest == {"norm": {}}


def test_a_result_that_is_no_tensor():
    class Two(torch.nn.LayerNorm):
        def forward(self, x):
            return super().forward(x), x

    module = Two(8)
    with Monitor({"norm": module}) as monitor:
        module(torch.randn(4, 8))
        monitor.step()
    assert monitor.latest == {"norm": {}}


def test_gradients_that_are_sparse():
    module = torch.nn.LayerNorm(8)
    with Monitor({"norm": module}) as monitor:
        module(torch.randn(4, 8)).square().sum().backward()
        expected = float(module.weight.grad.norm())
        module.weight.grad = module.weight.grad.to_sparse()
        monitor.step()
    assert monitor.latest["norm"]["weight_gradient"] == pytest.approx(expected, rel=1e-6)


def test_a_weight_that_is_made_of_another_has_no_gradient():
    class Doubled(torch.nn.Module):
        def forward(self, weight):
            return 2 * weight

    module = torch.nn.LayerNorm(8)
    torch.nn.utils.parametrize.register_parametrization(module, "weight", Doubled())
    with warnings.catch_warnings(), Monitor({"norm": module}) as monitor:
        warnings.simplefilter("error")
        module(torch.randn(4, 8)).square().sum().backward()
        monitor.step()
    assert "bias_gradient" in monitor.latest["norm"]
    assert "weight_gradient" not in monitor.latest["norm"]
