"""Are equal samples, and only those, found to be equal?"""

import torch

from snp.graph.batches import Batch
from snp.measure.repeats import Repeats


def left(*batches: Batch) -> tuple[list[Batch], Repeats]:
    repeats = Repeats()
    return list(repeats.left_out_of(batches)), repeats


def test_batches_without_repeats_stay_what_they_are() -> None:
    images = Batch.of(torch.randn(6, 3, 5, 5))
    found, repeats = left(images)
    assert found == [images]
    assert (repeats.num_samples, repeats.num_repeats) == (6, 0)


def test_repeats_go_wherever_they_are() -> None:
    """Inside a batch, in a later one of another size, in another precision of the same values."""
    rows = torch.randn(5, 300, 300).bfloat16()
    found, repeats = left(Batch.of(rows[[0, 1, 0]]), Batch.of(rows[[1, 0]]), Batch.of(rows[[4, 2, 2, 1, 3]].double()))
    assert [batch.size for batch in found] == [2, 3]
    assert torch.equal(torch.cat([batch.args[0].double() for batch in found]), rows[[0, 1, 4, 2, 3]].double())
    assert (repeats.num_samples, repeats.num_repeats) == (10, 5)


def test_samples_that_differ_in_one_number_are_two() -> None:
    """In one pixel of many, in the mask alone, in an imaginary part; what all samples share is not looked at."""
    images = torch.zeros(2, 3, 400, 400)
    images[1, 2, 399, 398] = 1.0
    assert left(Batch.of(images))[1].num_repeats == 0
    words, mask = torch.ones(2, 4, dtype=torch.int64), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    assert left(Batch.of({"input_ids": words, "attention_mask": mask}))[1].num_repeats == 0
    assert left(Batch.of({"input_ids": words, "attention_mask": mask[:1].repeat(2, 1)}))[1].num_repeats == 1
    waves = torch.tensor([[1 + 1j], [1 + 2j]])
    assert left(Batch.of(waves))[1].num_repeats == 0
    shared = Batch((torch.zeros(2, 3), torch.arange(2.0)), {}, frozenset({"[0][1]"}))
    assert left(shared)[0][0].args[1].shape == (2,)
