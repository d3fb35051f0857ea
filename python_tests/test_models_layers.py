"""What several networks share: how they are told a level, and residual blocks that a condition modulates."""

import pytest
import torch
from torch import nn

from visgen_fast.models.layers.embeddings import TimeEmbedding
from visgen_fast.models.layers.residual import ModulatedResidualBlock, group_norm


def test_a_network_told_the_level_spans_it_as_one_told_the_time_spans_the_time():
    torch.manual_seed(0)
    of_time, of_level = TimeEmbedding(16), TimeEmbedding(16, conditioning="log_snr")
    of_level.load_state_dict(of_time.state_dict())
    t = torch.linspace(-0.5, 0.5, 9)
    torch.testing.assert_close(of_level(40 * t), of_time(t))


def test_what_else_a_network_might_be_told_is_refused():
    with pytest.raises(ValueError, match="conditioning must be time or log_snr, got 'sigma'"):
        TimeEmbedding(16, conditioning="sigma")


@pytest.mark.parametrize("outputs", [8, 12])
def test_a_modulated_block_begins_as_its_shortcut_and_every_parameter_learns(outputs):
    torch.manual_seed(0)
    block = ModulatedResidualBlock(8, outputs, 6)
    x, condition = torch.randn(2, 8, 4, 6), torch.randn(2, 6)
    assert torch.equal(block(x, condition), block.shortcut(x)) and block(x, condition).shape == (2, outputs, 4, 6)
    nn.init.normal_(block.leave[-1].weight)
    block(x, condition).square().sum().backward()
    assert all(parameter.grad.any() for parameter in block.parameters())


def test_a_modulated_block_is_the_plain_one_where_the_condition_says_nothing():
    torch.manual_seed(0)
    block = ModulatedResidualBlock(8, 8, 6)
    nn.init.normal_(block.leave[-1].weight)
    nn.init.zeros_(block.modulation.linear.weight)
    nn.init.zeros_(block.modulation.linear.bias)
    x = torch.randn(2, 8, 4, 4)
    normalised = group_norm(8)(block.enter(x))
    torch.testing.assert_close(block(x, torch.randn(2, 6)), x + block.leave(normalised))


def test_a_modulated_block_scales_and_shifts_between_its_convolutions():
    """With scale −1 nothing of x is left there; the shift alone decides, the same at every place."""
    block = ModulatedResidualBlock(8, 8, 2)
    nn.init.normal_(block.leave[-1].weight)
    nn.init.zeros_(block.modulation.linear.weight)
    with torch.no_grad():
        block.modulation.linear.bias.copy_(torch.cat((torch.full((8,), 0.7), torch.full((8,), -1.0))))
    x = torch.randn(2, 8, 4, 4)
    expected = block.leave(torch.full_like(x, 0.7))
    torch.testing.assert_close(block(x, torch.zeros(2, 2)) - x, expected, rtol=1e-4, atol=1e-5)
