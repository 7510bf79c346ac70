"""What the network does beyond the references: initialisation, dropping, checkpointing, heads."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from resnest_cli.errors import UnknownModelError
from resnest_cli.model import resnest
from resnest_cli.model.resnest import (
    Bottleneck,
    DropBlock,
    DropPath,
    Pointwise,
    ResNeSt,
    SplitAttention,
    build,
    weighted_sum,
)
from resnest_cli.model.variants import VARIANTS, Variant
from tests.networks import TINY, enliven, photos


def tiny(**options: object) -> ResNeSt:
    return enliven(build(TINY, num_classes=5, **options).double())


@torch.no_grad()
def outputs(network: ResNeSt, x: Tensor) -> Tensor:
    return network(x).clone()


@pytest.mark.parametrize("change", [{}, {"radix": 1}, {"avd_first": False}, {"cardinality": 1}])
def test_every_tensor_acts_on_the_output(change: dict) -> None:
    network = enliven(build(dataclasses.replace(TINY, **change), num_classes=5).double()).eval()
    x = photos(2, 48)
    before = outputs(network, x)
    changed = 0
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        backup = tensor.clone()
        # Random, not constant: a softmax does not see a constant added to all its inputs.
        tensor.add_(0.3 * torch.rand(tensor.shape, dtype=tensor.dtype))
        assert not torch.allclose(outputs(network, x), before, atol=1e-9), name
        tensor.copy_(backup)
        changed += 1
    assert changed > 80
    assert torch.equal(outputs(network, x), before)


@pytest.mark.parametrize(
    "change",
    [{"radix": 1}, {"radix": 4}, {"cardinality": 1}, {"avd_first": False}, {"base_width": 64}],
)
def test_every_field_of_the_architecture_changes_the_network(change: dict) -> None:
    base, other = build(TINY, init=False), build(dataclasses.replace(TINY, **change), init=False)
    same_shapes = {k: v.shape for k, v in base.state_dict().items()} == {
        k: v.shape for k, v in other.state_dict().items()
    }
    if same_shapes:
        weights = enliven(build(TINY)).state_dict()
        for network in (base, other):
            network.load_state_dict(weights, assign=True)
        x = photos(2, 48, torch.float32)
        assert not torch.allclose(base.eval()(x), other.eval()(x), atol=1e-4)


def test_attention_weights_of_the_splits_add_up_to_one() -> None:
    splits = photos(2, 8).repeat_interleave(24, dim=1)  # (2, 3 * 24, 8, 8)
    softmax = enliven(SplitAttention(24, radix=3, cardinality=2).double()).eval()
    weights = softmax.attention(splits)
    assert weights.shape == (2, 3, 24)
    assert torch.allclose(weights.sum(dim=1), torch.ones(2, 24, dtype=torch.float64))
    assert weights.std(dim=1).min() > 1e-6
    sigmoid = enliven(SplitAttention(24, radix=1, cardinality=2).double()).eval()
    weights = sigmoid.attention(splits[:, :24])
    assert weights.shape == (2, 1, 24)
    assert 0 < weights.min() < weights.max() < 1


def test_a_fresh_block_starts_as_its_shortcut() -> None:
    network = build(TINY)
    blocks = [module for module in network.modules() if isinstance(module, Bottleneck)]
    assert len(blocks) == sum(TINY.blocks)
    for block in blocks:
        assert not block.bn3.weight.any()
        assert block.bn1.weight.eq(1).all()
    second = network.layer2[1].eval()
    x = photos(1, 8, torch.float32)[:, :1].repeat(1, 64, 1, 1).relu()
    assert torch.equal(second(x), x)
    resnest.init_weights(network, zero_init_last=False)
    assert all(block.bn3.weight.eq(1).all() for block in blocks)


def test_initialisation_follows_he_and_reaches_every_tensor() -> None:
    network = build("resnest14d", init=False)
    network.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.fill_(7)
    resnest.init_weights(network)
    for name, tensor in network.state_dict().items():
        assert not tensor.eq(7).all(), name
    weight = network.layer3[0].conv1.weight  # 256 filters of 1x1: fan-out 256
    assert weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.02)


def test_building_without_init_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.random.get_rng_state()
    network = build("resnest50d", init=False)
    assert all(tensor.is_meta for tensor in network.state_dict().values())
    weights = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in network.state_dict().items()}
    network.load_state_dict(weights, assign=True)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert network.fc.weight.data_ptr() == weights["fc.weight"].data_ptr()


def test_same_seed_same_network() -> None:
    torch.manual_seed(3)
    one = build(TINY).state_dict()
    torch.manual_seed(3)
    two = build(TINY).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_stochastic_depth_drops_the_branch_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25)
    x = torch.ones(4000, 2, 1, 1)
    out = drop(x)
    per_photo = out.flatten(1)
    assert torch.equal(per_photo.amin(1), per_photo.amax(1))  # whole photos, all channels together
    assert sorted(per_photo[:, 0].unique().tolist()) == pytest.approx([0, 4 / 3])
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(drop.eval()(x), x)


def test_a_dropped_block_is_its_shortcut() -> None:
    network = enliven(build(TINY, drop_path_rate=0.999999)).train()
    block = network.layer4[0]
    assert block.drop_path.rate == pytest.approx(0.999999)
    x = photos(4, 8, torch.float32)[:, :1].repeat(1, 64, 1, 1)
    shortcut = block.downsample(x)
    assert torch.equal(block(x), shortcut.relu())


def test_stochastic_depth_grows_linearly_with_depth() -> None:
    network = build(TINY, drop_path_rate=0.4)
    rates = [m.rate for m in network.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("size", [1, 2, 3, 4, 14])
def test_drop_block_zeroes_blocks_and_keeps_the_mean(size: int) -> None:
    torch.manual_seed(0)
    drop = DropBlock(0.1)
    x = torch.ones(200, 8, size, size)
    out = drop(x)
    assert out.shape == x.shape
    assert out.mean().item() == pytest.approx(1, abs=1e-4)
    share = out.eq(0).double().mean().item()
    assert 0.06 < share < 0.14
    if size >= 3:  # every zero lies in a block of 3 x 3 zeros
        zeros = out.eq(0).double()
        blocks = nn.functional.avg_pool2d(zeros, 3, stride=1) > 0.999
        covered = nn.functional.max_pool2d(nn.functional.pad(blocks.double(), [2] * 4), 3, stride=1)
        assert torch.equal(covered, zeros)
    assert torch.equal(drop.eval()(x), x)


def test_drop_block_acts_in_the_last_two_stages_only() -> None:
    network = build(TINY, drop_block_rate=0.1)
    rates = [
        {m.rate for m in stage.modules() if isinstance(m, DropBlock)} for stage in network.stages()
    ]
    assert rates == [{0.0}, {0.0}, {0.1}, {0.1}]
    counts = [sum(isinstance(m, DropBlock) for m in block.modules()) for block in network.layer3]
    assert counts == [3]


@pytest.mark.parametrize("option", ["drop_rate", "drop_path_rate", "drop_block_rate"])
def test_every_rate_acts_in_training_and_only_there(option: str) -> None:
    plain, dropping = tiny(), tiny(**{option: 0.5})
    x = photos(4, 64)
    assert torch.equal(plain.eval()(x), dropping.eval()(x))
    torch.manual_seed(0)
    assert not torch.allclose(plain.train()(x), dropping.train()(x))


def test_activation_checkpointing_changes_nothing_but_memory() -> None:
    plain, saving = tiny(drop_path_rate=0.3), tiny(drop_path_rate=0.3)
    saving.set_grad_checkpointing()
    x = photos(4, 64)
    kept: dict[str, int] = {}
    for name, network in (("plain", plain), ("saving", saving)):
        torch.manual_seed(5)
        total = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = network(x).square().sum()
        kept[name] = total
        loss.backward()
    assert kept["saving"] < 0.5 * kept["plain"]
    for (name, one), two in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert torch.allclose(one.grad, two.grad, rtol=1e-9, atol=1e-12), name
    # Running statistics and counters once, although the blocks ran twice.
    for (name, one), two in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(one, two), name


def test_classifier_can_be_replaced_and_removed() -> None:
    network = tiny().eval()
    x = photos(2, 48)
    pooled = network.forward_head(network.forward_features(x), pre_logits=True)
    assert pooled.shape == (2, TINY.num_features)
    network.reset_classifier(7)
    assert network(x).shape == (2, 7)
    assert network.fc.weight.dtype == torch.float64
    network.reset_classifier(0)
    assert torch.equal(network(x), pooled)
    assert build(TINY, num_classes=0, init=False).num_classes == 0


def test_intermediate_maps() -> None:
    network = tiny().eval()
    x = photos(1, 64)
    maps = network.forward_intermediates(x)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (16, 32, 32), (64, 16, 16), (64, 8, 8), (64, 4, 4), (128, 2, 2),
    ]  # fmt: skip
    some = network.forward_intermediates(x, stages=[2, 0])
    assert torch.equal(some[0], maps[0])
    assert torch.equal(some[1], maps[2])
    assert torch.equal(network.forward_features(x), maps[4])
    for bad in ([], [5], [-1]):
        with pytest.raises(ValueError, match="stages"):
            network.forward_intermediates(x, stages=bad)


def test_nothing_is_computed_beyond_the_last_stage_asked_for() -> None:
    network = tiny().eval()
    del network.layer3, network.layer4
    network.stages = lambda: (network.layer1, network.layer2)
    assert len(network.forward_intermediates(photos(1, 64), stages=[1, 2])) == 2


@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels(channels: int) -> None:
    network = build(TINY, num_classes=3, in_channels=channels).eval()
    assert network(torch.zeros(2, channels, 33, 47)).shape == (2, 3)


def test_bad_arguments() -> None:
    with pytest.raises(UnknownModelError, match="Did you mean resnest50d"):
        build("resnest50dd")
    for bad in ({"output_stride": 4}, {"drop_rate": 1.0}, {"drop_path_rate": -0.1},
                {"drop_block_rate": 2}, {"num_classes": -1}, {"in_channels": 0}):  # fmt: skip
        with pytest.raises(ValueError, match=r"must|bad"):
            build(TINY, **bad)


def test_aliases_build_the_same_network() -> None:
    for variant in VARIANTS.values():
        for alias in variant.aliases:
            assert build(alias, init=False).variant is variant
    assert isinstance(build("ResNeSt50", init=False).variant, Variant)


# The weighted sum of splits: its own backward pass against autograd's.


def splits_and_weights(
    radix: int, layout: torch.memory_format, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(radix)
    splits = torch.randn(2, radix * 3, 4, 5, generator=generator, dtype=dtype)
    weights = torch.randn(2, radix, 3, 1, 1, generator=generator, dtype=dtype)
    return splits.contiguous(memory_format=layout).requires_grad_(), weights.requires_grad_()


@pytest.mark.parametrize("radix", [1, 2, 4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_value_and_gradients_are_those_of_autograd(radix: int, layout: torch.memory_format) -> None:
    splits, weights = splits_and_weights(radix, layout, torch.float64)
    ours = weighted_sum(splits, weights, training=True)
    shaped = splits.view(2, radix, 3, 4, 5)
    plain = (shaped * weights).sum(dim=1)
    assert torch.allclose(ours, plain, rtol=0, atol=1e-14)

    towards = torch.randn_like(plain)
    found = torch.autograd.grad(ours, (splits, weights), towards)
    wanted = torch.autograd.grad(plain, (splits, weights), towards)
    for one, two in zip(found, wanted, strict=True):
        assert one.shape == two.shape
        assert torch.allclose(one, two, rtol=0, atol=1e-13)
    assert found[0].is_contiguous(memory_format=layout)
    assert torch.autograd.gradcheck(
        lambda s, w: weighted_sum(s, w, training=True), (splits, weights)
    )


def test_a_second_derivative_is_refused_in_training_and_there_otherwise() -> None:
    splits, weights = splits_and_weights(2, torch.contiguous_format, torch.float64)
    for training in (True, False):
        out = weighted_sum(splits, weights, training=training)
        (first,) = torch.autograd.grad(out.pow(2).sum(), splits, create_graph=True)
        if training:
            with pytest.raises(RuntimeError, match="once_differentiable"):
                first.sum().backward()
        else:
            (second,) = torch.autograd.grad(first.sum(), weights)
            assert bool(second.any())


def test_half_precision_stays_half() -> None:
    splits, weights = splits_and_weights(2, torch.channels_last, torch.bfloat16)
    out = weighted_sum(splits, weights, training=True)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert splits.grad is not None
    assert splits.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("bias", [False, True])  # folding gives one
def test_small_maps_take_a_matrix_product_with_the_same_result(
    layout: torch.memory_format, bias: bool
) -> None:
    torch.manual_seed(0)
    layer = Pointwise(12, 20).double()
    if bias:
        layer.bias = nn.Parameter(torch.ones(20, dtype=torch.float64))
    x = photos(3, 4).repeat(1, 4, 1, 1).contiguous(memory_format=layout).requires_grad_()
    results = []
    for training in (True, False):
        out = layer.train(training)(x)
        assert out.is_contiguous(memory_format=layout)
        results.append((out, *torch.autograd.grad(out.square().sum(), x)))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
