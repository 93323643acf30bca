"""Are exactly the right units tied, and is everything frozen that cannot be cut?  One small network per shape."""

from collections.abc import Callable

import pytest
import torch
import torch.fx.config as tracing
import torch.nn.functional as F
from torch import Tensor, nn

from snp.graph import analyse
from snp.graph.batches import Batch
from snp.graph.labels import LabelSpace, compact
from snp.graph.program import program_of
from snp.graph.units import UnitGroup
from snp.plan.costs import CostModel
from snp.surgery.trial_cuts import confirm
from tests.audit import audit, randomise
from tests.graphs import IMAGES, ROWS, Net, analysed, assert_cut_is_right, conv, owned, summary
from tests.transformer_models import transformer


def test_chain_of_convolution_norm_and_linear() -> None:
    """A layer's rows, its norm's four vectors and the next layer's columns are one group; the last rows are frozen."""
    model = Net(
        lambda m, x: m.head(F.relu(m.norm(m.first(x))).mean((2, 3))),
        first=conv(3, 8), norm=nn.BatchNorm2d(8), head=nn.Linear(8, 4),
    )  # fmt: skip
    graph = analysed(model)
    (group,) = graph.groups
    norm = {(f"norm.{leaf}", 0, 1) for leaf in ("weight", "bias", "running_mean", "running_var")}
    assert owned(group) == {
        "producers": {("first.weight", 0, 1)},
        "consumers": {("head.weight", 1, 1)},
        "others": norm | {("first.bias", 0, 1)},
    }
    assert group.num_units == 8
    assert not group.is_stream
    assert group.consumers[0].index.flatten().tolist() == list(range(8))
    assert graph.frozen == {"head.weight": "an output of the network"}
    assert graph.readers == ("first.weight", "head.weight")


def test_one_input_channel_is_not_depthwise() -> None:
    """The first layer of a network for grey images can be cut."""
    model = Net(lambda m, x: m.head(m.first(x).mean((2, 3))), first=conv(1, 8), head=nn.Linear(8, 4))
    assert summary(analysed(model, torch.randn(2, 1, 8, 8))) == {"first": 8}


def test_residual_branch_ties_into_a_stream() -> None:
    """The stream's producers are all that add to it; units inside the branch stay apart."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        x = x + m.down(F.relu(m.up(x)))
        return m.head(x.mean((2, 3)))

    graph = analysed(Net(forward, stem=conv(3, 8), up=conv(8, 12), down=conv(12, 8), head=nn.Linear(8, 4)))
    stream, inner = graph.groups
    assert (stream.num_units, stream.is_stream) == (8, True)
    assert (inner.name, inner.num_units, inner.is_stream) == ("up", 12, False)
    assert owned(stream)["producers"] == {("stem.weight", 0, 1), ("down.weight", 0, 1)}
    assert owned(stream)["consumers"] == {("up.weight", 1, 1), ("head.weight", 1, 1)}


def test_squeeze_and_excitation_gate_belongs_to_its_channels() -> None:
    """A gate's last rows go with the channels it scales; its hidden units are a group of their own."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.body(x)
        gate = torch.sigmoid(m.expand(F.relu(m.reduce(x.mean((2, 3), keepdim=True)))))
        return m.head((x * gate).mean((2, 3)))

    model = Net(forward, body=conv(3, 8), reduce=conv(8, 4, 1), expand=conv(4, 8, 1), head=nn.Linear(8, 4))
    body, hidden = analysed(model).groups
    assert owned(body)["producers"] == {("body.weight", 0, 1), ("expand.weight", 0, 1)}
    assert owned(body)["consumers"] == {("reduce.weight", 1, 1), ("head.weight", 1, 1)}
    assert not body.is_stream
    assert (hidden.name, hidden.num_units) == ("reduce", 4)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_convolution_passes_units_on(multiplier: int) -> None:
    """A depthwise kernel's rows go with the channel they read, all of its multiples together."""
    model = Net(
        lambda m, x: m.head(m.depth(m.first(x)).mean((2, 3))),
        first=conv(3, 8), depth=conv(8, 8 * multiplier, groups=8), head=nn.Linear(8 * multiplier, 4),
    )  # fmt: skip
    (group,) = analysed(model).groups
    assert owned(group) == {
        "producers": {("first.weight", 0, 1)},
        "consumers": {("head.weight", 1, multiplier)},
        "others": {("first.bias", 0, 1), ("depth.weight", 0, multiplier), ("depth.bias", 0, multiplier)},
    }
    assert group.consumers[0].index.flatten().tolist() == list(range(8 * multiplier))


def test_concatenation_keeps_groups_apart() -> None:
    """Readers of a concatenation take each part's columns at its place."""
    model = Net(
        lambda m, x: m.head(torch.cat([m.left(x), m.right(x)], dim=1).mean((2, 3))),
        left=conv(3, 4), right=conv(3, 6), head=nn.Linear(10, 4),
    )  # fmt: skip
    left, right = analysed(model).groups
    assert left.consumers[0].index.flatten().tolist() == [0, 1, 2, 3]
    assert right.consumers[0].index.flatten().tolist() == [4, 5, 6, 7, 8, 9]


def test_halves_that_gate_each_other_are_one_group() -> None:
    """A gated linear unit: unit u owns rows u and u + 8 of the layer before."""

    def forward(m: Net, x: Tensor) -> Tensor:
        value, gate = m.both(x).chunk(2, dim=-1)
        return m.head(value * torch.sigmoid(gate))

    (group,) = analysed(Net(forward, both=nn.Linear(6, 16), head=nn.Linear(8, 4)), ROWS).groups
    assert group.num_units == 8
    assert group.producers[0].index.tolist() == [[u, u + 8] for u in range(8)]


def test_split_at_fixed_places_is_refused() -> None:
    """Sizes written into the model's code do not bear any cut."""

    def forward(m: Net, x: Tensor) -> Tensor:
        first, second = m.both(x).split([8, 8], dim=-1)
        return m.one(first) + m.other(second)

    model = randomise(Net(forward, both=nn.Linear(6, 16), one=nn.Linear(8, 4), other=nn.Linear(8, 4)))
    assert confirm(model, analyse(model, ROWS).groups, Batch.of(ROWS))[0] == ()


def shuffled(x: Tensor) -> Tensor:
    count, channels, height, width = x.shape
    return x.reshape(count, 2, channels // 2, height, width).transpose(1, 2).reshape(x.shape)


def test_channel_shuffle_by_reshapes_ties_the_same_places_of_every_group() -> None:
    """A shuffle permutes by position: units leave in pairs, so that who is left comes out where it is expected."""
    model = Net(lambda m, x: m.head(shuffled(m.first(x)).mean((2, 3))), first=conv(3, 16), head=nn.Linear(16, 4))
    (group,) = analysed(model).groups
    assert group.producers[0].index.tolist() == [[u, u + 8] for u in range(8)]
    assert group.consumers[0].index.tolist() == [[2 * u, 2 * u + 1] for u in range(8)]
    for seed in range(5):
        assert_cut_is_right(model, group, IMAGES, seed)


@pytest.mark.parametrize("read", [lambda x: x[:, 3:], lambda x: x.roll(1, dims=1), lambda x: x.flip(1)])
def test_positions_among_channels_never_give_a_wrong_cut(read: Callable[[Tensor], Tensor]) -> None:
    """Slices and rolls by position are either tied as they fall or refused; no group that passes fails later."""
    width = read(torch.zeros(1, 12)).shape[1]
    model = randomise(
        Net(lambda m, x: m.head(read(m.first(x)).mean((2, 3))), first=conv(3, 12), head=nn.Linear(width, 4))
    )
    for group in confirm(model, analyse(model, IMAGES).groups, Batch.of(IMAGES))[0]:
        for seed in range(20):
            assert_cut_is_right(model, group, IMAGES, seed)


def test_flatten_gives_each_channel_its_positions() -> None:
    """Behind a flatten a channel owns as many columns as the map has positions."""
    model = Net(lambda m, x: m.head(m.first(x).flatten(1)), first=conv(3, 8), head=nn.Linear(8 * 64, 4))
    (group,) = analysed(model).groups
    (reader,) = group.consumers
    assert reader.index.shape == (8, 64)
    assert reader.index[2].tolist() == list(range(128, 192))


def test_flatten_with_channels_last_interleaves_positions() -> None:
    """Permuted before the flatten, a channel's columns lie a stride apart."""
    model = Net(
        lambda m, x: m.head(m.first(x).permute(0, 2, 3, 1).flatten(1)), first=conv(3, 8), head=nn.Linear(8 * 64, 4)
    )
    (group,) = analysed(model).groups
    assert group.consumers[0].index[2].tolist() == list(range(2, 512, 8))


def test_padded_shortcut_frees_only_what_meets_channels() -> None:
    """Option A: channels added to zeros are frozen, those that meet the smaller stage's units follow them."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        y = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + m.wide(x)
        return m.head(y.mean((2, 3)))

    model = Net(forward, stem=conv(3, 4), wide=nn.Conv2d(4, 8, 3, stride=2, padding=1), head=nn.Linear(8, 4))
    (stream,) = analysed(model).groups
    assert (stream.num_units, stream.is_stream) == (4, True)
    rows = {member.tensor: member.index.flatten().tolist() for member in stream.producers}
    assert rows == {"stem.weight": [0, 1, 2, 3], "wide.weight": [2, 3, 4, 5]}


def test_module_called_twice_is_one_producer() -> None:
    """Both calls' inputs are tied, both count in the cost."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        return m.head(F.relu(m.body(F.relu(m.body(x)))).mean((2, 3)))

    model = Net(forward, stem=conv(3, 8), body=conv(8, 8), head=nn.Linear(8, 4))
    graph = analysed(model)
    (group,) = graph.groups
    assert owned(group)["producers"] == {("stem.weight", 0, 1), ("body.weight", 0, 1)}
    assert graph.positions == {"stem.weight": 64, "body.weight": 128, "head.weight": 1}


def test_weight_shared_by_two_modules_is_not_fitted() -> None:
    """A tied weight read by a module that does not own it keeps its columns; its rows may go with both outputs."""

    def forward(m: Net, x: Tensor) -> Tensor:
        return m.head(F.relu(m.second(m.first(x))) + F.relu(m.third(m.first(x))))

    model = Net(
        forward, first=nn.Linear(6, 8), second=nn.Linear(8, 8), third=nn.Linear(8, 8, bias=False), head=nn.Linear(8, 4)
    )
    model.third.weight = model.second.weight
    graph = analysed(model, ROWS)
    assert "first.weight" in graph.frozen
    assert summary(graph) == {"second": 8}
    costs = CostModel(model, graph, graph.groups)
    # The tied weight multiplies twice, but is stored once; the first layer is called twice.
    assert costs.macs(costs.dense) == 48 + 48 + 64 + 64 + 32
    assert costs.params(costs.dense) == sum(parameter.numel() for parameter in model.parameters())


def test_module_called_under_two_names_is_one_layer() -> None:
    """The same module as two attributes, called by both: its units go once, and all it read is measured."""
    model = Net(
        lambda m, x: m.head(F.gelu(m.again(F.gelu(m.layer(F.gelu(m.first(x))))))),
        first=nn.Linear(6, 8), layer=nn.Linear(8, 8), head=nn.Linear(8, 4),
    )  # fmt: skip
    model.again = model.layer
    (group,) = analysed(model, ROWS).groups
    assert owned(group)["producers"] == {("first.weight", 0, 1), ("layer.weight", 0, 1)}
    assert owned(group)["consumers"] == {("layer.weight", 1, 1), ("head.weight", 1, 1)}


def test_tensor_that_the_code_holds_is_named() -> None:
    """A constant of the code is no parameter, no buffer and no input."""
    held = torch.rand(8)
    model = Net(lambda m, x: m.head(m.first(x) * held), first=nn.Linear(6, 8), head=nn.Linear(8, 4))
    assert "that the code holds" in analysed(model, ROWS).frozen["first.weight"]


@pytest.mark.parametrize("decoder_first", [False, True])
def test_embedding_tied_to_the_decoder_is_not_fitted(decoder_first: bool) -> None:
    """Folding a decoder would change the embedding that shares its weight: the stream between them is frozen."""
    layers = {"embed": nn.Embedding(10, 8), "decode": nn.Linear(8, 10, bias=False)}
    names = ["decode", "embed"] if decoder_first else ["embed", "decode"]
    model = Net(lambda m, x: m.decode(F.relu(m.embed(x))), **{name: layers[name] for name in names})
    model.decode.weight = model.embed.weight
    assert analysed(model, torch.tensor([[1, 2, 3], [4, 5, 6]])).groups == ()


def test_embedding_produces_units() -> None:
    """An embedding's columns are units; a learned position table belongs to them."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(10, 8), nn.Linear(8, 4)
            self.position = nn.Parameter(torch.randn(1, 3, 8))

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.embed(tokens) + self.position)

    (group,) = analysed(Tokens(), torch.tensor([[1, 2, 3], [4, 5, 6]])).groups
    assert owned(group) == {
        "producers": {("embed.weight", 1, 1)},
        "consumers": {("head.weight", 1, 1)},
        "others": {("position", 2, 1)},
    }


def test_batches_of_named_inputs() -> None:
    """A mapping is handed over as keyword arguments; labels are not."""
    model = Net(lambda m, *, left, right: m.head(m.one(left) + m.two(right)),
                one=nn.Linear(6, 8), two=nn.Linear(6, 8), head=nn.Linear(8, 4))  # fmt: skip
    batch = {"left": ROWS, "right": ROWS + 1, "labels": torch.zeros(2)}
    (group,) = analysed(model, batch).groups
    assert owned(group)["producers"] == {("one.weight", 0, 1), ("two.weight", 0, 1)}


def test_every_output_of_a_network_is_frozen() -> None:
    """Units that leave the network in any of its outputs stay, named or nested."""
    model = Net(
        lambda m, x: {"features": m.first(x), "rest": [m.head(F.relu(m.second(x)))]},
        first=nn.Linear(6, 8), second=nn.Linear(6, 8), head=nn.Linear(8, 4),
    )  # fmt: skip
    graph = analysed(model, ROWS)
    assert summary(graph) == {"second": 8}
    assert set(graph.frozen) == {"first.weight", "head.weight"}


FREEZERS: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "layer norm": lambda m, x: F.layer_norm(x, (8,)),
    "group norm": lambda m, x: F.group_norm(x, 2),
    "softmax over units": lambda m, x: x.softmax(-1),
    "cumulative product": lambda m, x: x.cumprod(-1),
    "cumulative sum": lambda m, x: x.cumsum(-1),
    "fourier transform": lambda m, x: torch.fft.fft(x).real,
    "mean over units": lambda m, x: x - x.mean(-1, keepdim=True),
    "global mean": lambda m, x: x - x.mean(),
    "global variance": lambda m, x: x / x.var(),
    "largest unit": lambda m, x: x / x.abs().amax(dim=1, keepdim=True),
    "maximum with indices": lambda m, x: x - x.max(dim=1, keepdim=True).values,
    "sorted units": lambda m, x: x.sort(-1).values,
    "norm over units": lambda m, x: F.normalize(x, dim=-1),
    "product of activations": lambda m, x: x @ (x.transpose(0, 1) @ x),
    "einsum": lambda m, x: torch.einsum("nc,nd->nd", x, x),
    "gather": lambda m, x: x.gather(1, torch.arange(7, -1, -1).expand(2, 8)),
    "reinterpreted bits": lambda m, x: x.view(torch.int32).view(torch.float32),
    "attention": lambda m, x: F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0],
    "fixed reshape": lambda m, x: x.reshape(2, 2, 4).softmax(-1).reshape(2, 8),
}


@pytest.mark.parametrize("name", FREEZERS)
def test_what_mixes_units_freezes_them(name: str) -> None:
    """Operations whose value for one unit depends on the others, or that are not known, freeze what enters."""
    model = Net(lambda m, x: m.head(FREEZERS[name](m, m.first(x))), first=nn.Linear(6, 8), head=nn.Linear(8, 4))
    graph = analysed(model, ROWS)
    assert graph.groups == ()
    assert set(graph.frozen) == {"first.weight", "head.weight"}


def test_weight_used_as_a_plain_tensor_too_is_frozen() -> None:
    """A layer's weight that also enters the computation elsewhere is not cut behind its back."""
    model = Net(
        lambda m, x: m.head(F.relu(m.first(x))) + (x @ m.first.weight.t()).sum(-1, keepdim=True),
        first=nn.Linear(6, 8), head=nn.Linear(8, 4),
    )  # fmt: skip
    assert analysed(model, ROWS).groups == ()


def test_weight_computed_on_the_way_is_frozen_and_counted() -> None:
    """A standardised kernel has no rows of its own to cut."""
    model = Net(
        lambda m, x: m.head(F.conv2d(x, m.first.weight - m.first.weight.mean()).mean((2, 3))),
        first=conv(3, 8), head=nn.Linear(8, 4),
    )  # fmt: skip
    graph = analysed(model)
    costs = CostModel(model, graph, graph.groups)
    assert graph.groups == ()
    assert costs.macs(costs.dense) == 36 * 8 * 27 + 32


def test_unit_scale_and_spatial_gate() -> None:
    """A learned scale per channel belongs to its channel; one value for all channels binds none."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head, self.spatial = conv(3, 8), nn.Linear(8, 4), conv(3, 1)
            self.scale = nn.Parameter(torch.rand(8, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x) * self.scale * torch.sigmoid(self.spatial(x))
            return self.head(y.mean((2, 3)))

    (group,) = analysed(Scaled()).groups
    assert owned(group)["others"] == {("first.bias", 0, 1), ("scale", 0, 1)}


def test_windows_folded_into_the_batch_are_counted() -> None:
    """Multiply-accumulates are per sample, wherever the model puts its samples."""

    def forward(m: Net, x: Tensor) -> Tensor:
        tokens = m.first(x).flatten(2).transpose(1, 2)  # [2, 64, 8]
        windows = tokens.reshape(8, 16, 8)
        mixed = torch.bmm(windows, windows.transpose(1, 2))
        mixed = torch.baddbmm(windows, mixed, windows)
        return m.head(F.relu(m.body(mixed)).reshape(2, 64, 5).mean(1))

    model = Net(forward, first=conv(3, 8), body=nn.Linear(8, 5), head=nn.Linear(5, 4)).eval()
    graph = analyse(model, IMAGES)
    assert graph.positions == {"first.weight": 64, "body.weight": 64, "head.weight": 1}
    assert graph.fixed_macs == 2 * 4 * 16 * 16 * 8


def test_analysis_changes_nothing_and_repeats() -> None:
    """The same groups twice, and not a bit of the model moved."""
    model = randomise(Net(lambda m, x: m.head(m.first(x).mean((2, 3))), first=conv(3, 8), head=nn.Linear(8, 4)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = analyse(model, IMAGES), analyse(model, IMAGES)
    assert [owned(group) for group in first.groups] == [owned(group) for group in second.groups]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_analysis_of_one_sample_equals_that_of_two() -> None:
    """The size of the example batch does not count."""
    model = randomise(Net(lambda m, x: m.head(m.first(x).mean((2, 3))), first=conv(3, 8), head=nn.Linear(8, 4)))
    one, two = analyse(model, IMAGES[:1]), analyse(model, IMAGES)
    assert [owned(group) for group in one.groups] == [owned(group) for group in two.groups]
    assert one.positions == two.positions


def test_model_that_cannot_be_exported_is_a_clear_error() -> None:
    """Control flow that depends on values is named as the obstacle."""
    model = Net(lambda m, x: m.head(x) if float(x.sum()) > 0 else x, head=nn.Linear(6, 4)).eval()
    with pytest.raises(ValueError, match="cannot be exported"):
        analyse(model, ROWS)


def test_audit_finds_a_missing_reader() -> None:
    """The proof can fail: a group that forgets one of its readers moves the output."""
    model = Net(
        lambda m, x: m.one(m.first(x)) + m.two(m.first(x)),
        first=nn.Linear(6, 9), one=nn.Linear(9, 4), two=nn.Linear(9, 4),
    )  # fmt: skip
    (group,) = analyse(randomise(model), ROWS).groups
    blind = UnitGroup(group.name, group.num_units, group.producers, group.consumers[:1], group.others)
    assert audit(model, [group], ROWS) < 1e-6
    assert audit(model, [blind], ROWS) > 1e-2


def test_region_of_another_precision_is_read_like_the_rest() -> None:
    """Layers inside an autocast region are found, and their products counted."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.first(x)
        with torch.autocast("cpu", enabled=False):
            x = m.second(F.relu(x))
        return m.head(F.relu(x))

    model = Net(forward, first=nn.Linear(6, 8), second=nn.Linear(8, 10), head=nn.Linear(10, 4))
    graph = analyse(randomise(model), ROWS)
    assert summary(graph) == {"first": 8, "second": 10}
    assert graph.positions == {"first.weight": 1, "second.weight": 1, "head.weight": 1}
    for number, group in enumerate(graph.groups):
        assert audit(model, [group], ROWS, seed=number) < 1e-4


def test_product_over_named_indices_is_frozen_and_counted() -> None:
    """Every combination of index values is one multiplication."""
    model = Net(
        lambda m, x: m.head(torch.einsum("nc,nd->cd", m.one(x), m.two(x))),
        one=nn.Linear(6, 5), two=nn.Linear(6, 8), head=nn.Linear(8, 4),
    )  # fmt: skip
    graph = analysed(model, ROWS)
    assert graph.groups == ()
    assert graph.fixed_macs == 5 * 8


def test_what_passes_the_trial_has_passed_together() -> None:
    """Two groups that are right alone and wrong together: one of them is left."""

    def forward(m: Net, x: Tensor) -> Tensor:
        one, two = m.one(x), m.two(x)
        wrong = torch.where(torch.tensor(one.shape[1] < 8 and two.shape[1] < 8), 100.0, 0.0)
        return m.left(one) + m.right(two) + wrong

    model = randomise(
        Net(forward, one=nn.Linear(6, 8), two=nn.Linear(6, 8), left=nn.Linear(8, 4), right=nn.Linear(8, 4))
    )
    groups = analyse(model, ROWS).groups
    assert len(groups) == 2
    passed, refused = confirm(model, groups, Batch.of(ROWS))
    assert len(passed) == len(refused) == 1
    for group in groups:
        assert confirm(model, [group], Batch.of(ROWS))[0] == (group,)


def test_long_texts_cost_no_more_than_short_ones() -> None:
    """Labels are the same at every token, so they lie in memory once: 64 times the tokens, hardly more labels seen."""
    seen: list[int] = []
    original = LabelSpace.roots

    def counted(self: LabelSpace, labels: Tensor) -> Tensor:
        seen[-1] += compact(labels)[0].numel()
        return original(self, labels)

    model = transformer("llama")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LabelSpace, "roots", counted)
        groups = []
        for length in (8, 512):
            seen.append(0)
            graph = analyse(model, torch.randint(3, 32, (2, length)), ("ffn", "vo", "qk", "heads"))
            groups.append([(group.name, group.num_units) for group in graph.groups])
    assert groups[0] == groups[1]
    assert seen[1] < 1.5 * seen[0]


def test_an_export_leaves_pytorch_as_it_was() -> None:
    """Nodes note no lines of code where PyTorch can do without, also not behind an export that failed."""
    switch = "do_not_emit_stack_traces"
    before = getattr(tracing, switch, None)
    program = program_of(nn.Sequential(nn.Linear(3, 4), nn.ReLU()).eval(), Batch.of(torch.ones(2, 3)))
    assert getattr(tracing, switch, None) == before
    made = [node for node in program.graph.nodes if node.op == "call_function"]
    assert made
    assert before is None or not any(node.stack_trace for node in made)
    with pytest.raises(RuntimeError):
        program_of(nn.Linear(3, 4), Batch.of(torch.ones(2, 5)))
    assert getattr(tracing, switch, None) == before
