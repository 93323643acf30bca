"""Do collected moments equal the moments of the layers' true inputs?"""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snp.core.gram import Moments
from snp.core.outliers import limiting_scale
from snp.graph.batches import Batch
from snp.graph.units import Reading, Slice
from snp.measure.moments import MomentCollector
from snp.measure.patches import patch_of
from snp.measure.readers import Reader, reader_of
from tests.graphs import Net


def reader(model: nn.Module, name: str) -> Reader:
    module = model.get_submodule(name)
    num_columns = module.weight.shape[1]
    dim = -1 if isinstance(module, nn.Linear) else 1
    member = Slice(f"{name}.weight", 1, torch.arange(num_columns)[:, None])
    return reader_of(model, member, Reading(name, 1, dim, dim), None)


def collected(model: nn.Module, batches: list[Tensor], **options: Any) -> dict[str, Moments]:
    readers = {f"{name}.weight": reader(model, name) for name, _ in model.named_children()}
    with torch.no_grad(), MomentCollector(model, readers, **options) as collector:
        for batch in batches:
            model(batch)
    return collector.moments


def assert_moments(found: Moments, samples_NC: Tensor) -> None:
    wanted = Moments.of(samples_NC)
    assert found.count == wanted.count
    torch.testing.assert_close(found.second, wanted.second, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.first, wanted.first, rtol=1e-12, atol=1e-12)


def test_convolution_counts_every_position_once() -> None:
    """The samples of a convolution are its input's positions, channels as columns, over all batches."""
    model = Net(lambda m, x: m.last(x), last=nn.Conv2d(5, 4, 3, stride=2, padding=1))
    images = torch.randn(6, 5, 7, 7)
    found = collected(model, [images[:4], images[4:]])["last.weight"]
    assert_moments(found, images.movedim(1, -1).reshape(-1, 5))


def test_linear_layer_counts_every_token() -> None:
    """The samples of a linear layer are all rows before its last dimension."""
    model = Net(lambda m, x: m.last(x), last=nn.Linear(5, 4))
    tokens = torch.randn(6, 3, 5)
    assert_moments(collected(model, [tokens])["last.weight"], tokens.reshape(-1, 5))


@pytest.mark.parametrize("size", [6, 21])
@pytest.mark.parametrize(
    "geometry",
    [
        {"kernel_size": 1},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 1, "padding": 1},
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (3, 2), "stride": (2, 1), "padding": (0, 1), "dilation": (1, 2)},
    ],
    ids=str,
)
def test_patches_times_weight_are_the_outputs(geometry: dict[str, Any], size: int) -> None:
    """What a patch reader samples, times the flat kernel, is what the convolution gives at the same positions."""
    module, images = nn.Conv2d(5, 4, bias=False, **geometry).double(), torch.randn(3, 5, size, size).double()
    outputs = module(images).detach()
    num_positions = outputs[0, 0].numel()
    member = Slice("last.weight", 1, torch.arange(5)[:, None])
    given = reader_of(nn.ModuleDict({"last": module}), member, Reading("last"), patch_of(module, num_positions))
    samples = given.samples(images)
    assert samples.shape[1] == given.num_columns == module.weight[0].numel()
    assert len(samples) == 3 * min(num_positions, 64)
    torch.testing.assert_close(samples @ module.weight.detach().flatten(1).T, given.outputs(outputs))
    taps = module.weight[0, 0].numel()
    assert given.columns(member).tolist() == [list(range(c * taps, (c + 1) * taps)) for c in range(5)]


def test_large_flattened_map_is_measured_by_channel() -> None:
    """Where the full Gram matrix would be too large, positions of a channel are samples of one column."""
    module = nn.Linear(200 * 49, 2)
    member = Slice("last.weight", 1, torch.arange(200 * 49).reshape(200, 49))
    given = reader_of(nn.ModuleDict({"last": module}), member, Reading("last", 1, -1, -1), None)
    assert (given.num_columns, given.shared) == (200, 49)
    maps = torch.randn(3, 200, 7, 7)
    torch.testing.assert_close(
        Moments.of(given.samples(maps.flatten(1))).second, Moments.of(maps.movedim(1, -1).reshape(-1, 200)).second
    )
    assert given.columns(member).tolist() == [[channel] for channel in range(200)]


def test_branches_that_read_the_same_tensor_agree() -> None:
    """Two readers of one tensor get the same moments as each alone."""
    model = Net(lambda m, x: m.one(F.relu(x)) + m.two(F.relu(x)), one=nn.Linear(5, 4), two=nn.Linear(5, 4))
    rows = torch.randn(20, 5)
    for moments in collected(model, [rows[:9], rows[9:]]).values():
        assert_moments(moments, rows.relu())


def test_values_changed_in_place_between_two_readers_are_seen() -> None:
    """An in-place activation keeps the memory and changes the values: the second reader gets its own sums."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = x.clone()
        return m.one(x) + m.two(x.relu_())

    model, rows = Net(forward, one=nn.Linear(5, 4), two=nn.Linear(5, 4)), torch.randn(20, 5)
    found = collected(model, [rows])
    assert_moments(found["one.weight"], rows)
    assert_moments(found["two.weight"], rows.relu())


def test_transposed_views_of_one_tensor_are_told_apart() -> None:
    """The same memory and shape read along another dimension is another matrix of samples."""
    model = Net(lambda m, x: m.one(x) + m.two(x.transpose(1, 2)), one=nn.Linear(5, 4), two=nn.Linear(5, 4))
    square = torch.randn(6, 5, 5)
    found = collected(model, [square])
    assert_moments(found["one.weight"], square.reshape(-1, 5))
    assert_moments(found["two.weight"], square.transpose(1, 2).reshape(-1, 5))


def test_readers_along_different_dimensions_are_told_apart() -> None:
    """A convolution reads channels of dimension 1, a linear layer the last, of the very same tensor."""
    model = Net(lambda m, x: m.one(x) + m.two(x), one=nn.Linear(5, 5), two=nn.Conv1d(5, 5, 1))
    square = torch.randn(6, 5, 5)
    found = collected(model, [square])
    assert_moments(found["one.weight"], square.reshape(-1, 5))
    assert_moments(found["two.weight"], square.transpose(1, 2).reshape(-1, 5))


def test_memory_used_again_is_not_taken_for_the_same_values() -> None:
    """Every batch counts, whatever the allocator does."""
    model = Net(lambda m, x: m.one(x * 1), one=nn.Linear(5, 4))
    batches = [torch.randn(8, 5) for _ in range(5)]
    assert_moments(collected(model, batches)["one.weight"], torch.cat(batches))


def test_module_called_twice_sums_both_inputs() -> None:
    """A shared layer is fitted on all it reads."""
    model = Net(lambda m, x: m.one(m.one(x).relu()), one=nn.Linear(5, 5))
    rows = torch.randn(20, 5)
    assert_moments(collected(model, [rows])["one.weight"], torch.cat([rows, model.one(rows).detach().relu()]))


def test_input_given_by_keyword_is_measured() -> None:
    """A layer called as ``layer(input=x)`` is a reader like any other."""
    model = Net(lambda m, x: m.one(input=x), one=nn.Linear(5, 4))
    rows = torch.randn(20, 5)
    assert_moments(collected(model, [rows])["one.weight"], rows)


def test_inference_mode_gives_the_same_moments() -> None:
    """Inference tensors have no version counter, and need none."""
    model, rows = Net(lambda m, x: m.one(x), one=nn.Linear(5, 4)), torch.randn(20, 5)
    with torch.inference_mode(), MomentCollector(model, {"one.weight": reader(model, "one")}) as collector:
        model(rows)
    assert_moments(collector.moments["one.weight"], rows)


def test_layer_with_values_that_are_not_finite_is_named() -> None:
    """The error says where the first NaN was read."""
    model = Net(lambda m, x: m.two(m.one(x)), one=nn.Linear(5, 4), two=nn.Linear(4, 4))
    with torch.no_grad():
        model.one.bias[2] = float("nan")
    with pytest.raises(ValueError, match="inputs of layer two: activations hold NaN"):
        collected(model, [torch.randn(3, 5)])


def test_wide_layers_are_summed_by_panels() -> None:
    """Only a triangle is summed there; what comes out is the whole symmetric matrix, for both precisions."""
    model, rows = Net(lambda m, x: m.one(x), one=nn.Linear(518, 2)), torch.randn(40, 518)
    found = collected(model, [rows[:30], rows[30:]])["one.weight"]
    assert_moments(found, rows)
    assert torch.equal(found.second, found.second.T)
    rough = collected(model, [rows[:30], rows[30:]], product_dtype=torch.float32)["one.weight"]
    torch.testing.assert_close(rough.second, found.second, rtol=1e-5, atol=1e-4)


def test_branches_that_part_ways_keep_their_own_sums() -> None:
    """Readers that shared a tensor at first, and at last again, are measured alone in between."""
    model = Net(lambda m, x: m.one(x) + m.two(x if len(x) != 7 else x + 1), one=nn.Linear(5, 4), two=nn.Linear(5, 4))
    batches = [torch.randn(count, 5) for count in (6, 6, 7, 6)]
    found = collected(model, batches)
    assert_moments(found["one.weight"], torch.cat(batches))
    assert_moments(found["two.weight"], torch.cat([batch + (len(batch) == 7) for batch in batches]))


def test_passes_end_with_the_last_reader() -> None:
    """From the second pass of one shape on what follows is not computed; other shapes and options run whole first."""
    ends: list[torch.Size] = []
    model = Net(lambda m, x: (ends.append(x.shape), m.one(m.one(x)))[1], one=nn.Linear(5, 5)).double()
    model.register_forward_hook(lambda module, args, output: ends.append(torch.Size()))
    readers = {"one.weight": reader(model, "one")}
    batches = [torch.randn(*shape).double() for shape in ((4, 5), (6, 5), (2, 3, 5), (4, 5))]
    with torch.no_grad(), MomentCollector(model, readers) as collector:
        for batch in batches:
            collector.measure(Batch.of(batch))
    flat = torch.cat([batch.reshape(-1, 5) for batch in batches])
    assert_moments(collector.moments["one.weight"], torch.cat([flat, model.one(flat).detach()]))
    assert [end == torch.Size() for end in ends] == [False, True, False, False, True, False]


def test_no_hook_stays_behind() -> None:
    """After the block, an error inside it included, the model is as it was."""
    model = Net(lambda m, x: m.one(x), one=nn.Linear(5, 4))
    with pytest.raises(RuntimeError), MomentCollector(model, {"one.weight": reader(model, "one")}):
        model(torch.randn(3, 7))
    assert not model.one._forward_pre_hooks


def test_tokens_count_no_more_than_they_may() -> None:
    """Samples are bounded tokens, whatever the batches; rows of a matrix are no tokens."""
    model = Net(lambda m, x: m.one(x), one=nn.Linear(6, 2))
    tokens = torch.randn(4, 10, 6, generator=torch.Generator().manual_seed(0))
    tokens[:, 0] *= 100
    bounded = {"one.weight": replace(reader(model, "one"), largest_token=4.0)}
    for given, wanted in ((tokens, tokens * limiting_scale(tokens, 4.0)[..., None]), (tokens[:, 0], tokens[:, 0])):
        with torch.no_grad(), MomentCollector(model, bounded) as collector:
            for batch in given.split([1, 3]):
                model(batch)
        assert_moments(collector.moments["one.weight"], wanted.reshape(-1, 6))
