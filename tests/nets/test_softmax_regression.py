"""SoftmaxRegression against its formula."""

import math

import torch
import torch.nn.functional as F

from lightning_optreg.nets import SoftmaxRegression


def test_scores_are_wx_plus_b() -> None:
    torch.manual_seed(0)
    net = SoftmaxRegression(num_classes=5, input_shape=(3, 4, 6)).double()
    torch.nn.init.normal_(net.linear.weight)
    torch.nn.init.normal_(net.linear.bias)
    x = torch.randn(7, 3, 4, 6, dtype=torch.float64)
    templates = net.linear.weight.reshape(5, 3, 4, 6)  # each row of W is an image
    expected = torch.einsum("kchw,nchw->nk", templates, x) + net.linear.bias
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)


def test_first_loss_is_the_logarithm_of_the_number_of_classes() -> None:
    net = SoftmaxRegression(num_classes=10, input_shape=(1, 28, 28))
    loss = F.cross_entropy(net(torch.randn(8, 1, 28, 28)), torch.arange(8))
    assert math.isclose(loss.item(), math.log(10), rel_tol=1e-6)


def test_parameter_count() -> None:
    net = SoftmaxRegression(num_classes=10, input_shape=(3, 32, 32))
    assert sum(p.numel() for p in net.parameters()) == 10 * 3072 + 10


def test_gradient_of_a_row_of_w_is_probability_minus_target_times_x() -> None:
    net = SoftmaxRegression(num_classes=3, input_shape=(1, 2, 2)).double()
    torch.nn.init.normal_(net.linear.weight)
    x = torch.randn(1, 1, 2, 2, dtype=torch.float64)
    F.cross_entropy(net(x), torch.tensor([1])).backward()
    residual = net(x).softmax(1)[0] - torch.tensor([0.0, 1.0, 0.0])
    torch.testing.assert_close(net.linear.weight.grad, residual[:, None] * x.flatten()[None])
