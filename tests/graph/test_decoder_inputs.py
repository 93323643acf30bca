"""Does a decoder read its labels, moved on by one, where a batch of an encoder-decoder holds no other inputs for it?"""

import pytest
import torch

import snp
from snp.graph.decoder_inputs import with_decoder_inputs

transformers = pytest.importorskip("transformers")


def t5() -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, decoder_start_token_id=0)).eval()


def test_labels_say_what_the_decoder_reads() -> None:
    """A batch with labels prunes as the one with the decoder's inputs written out, ignored labels included."""
    model = t5()
    ids, labels = torch.randint(3, 60, (16, 12)), torch.randint(3, 60, (16, 7))
    labels[:, 5:] = -100
    reads = torch.cat([torch.zeros(16, 1, dtype=torch.int64), labels[:, :-1]], dim=1).clamp_min(0)
    spelled = {"input_ids": ids, "decoder_input_ids": reads}
    asked = {"target_units": 0.5, "ordering": "zca", "cut": "uniform", "calibration": "joint"}
    wanted = snp.prune(model, [spelled], **asked)
    for batch in ({"input_ids": ids, "labels": labels}, ({"input_ids": ids, "labels": labels}, None)):
        found = snp.prune(model, [batch], **asked)
        state = wanted.model.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in found.model.state_dict().items())


def test_what_is_given_stays() -> None:
    ids, plain = torch.ones(2, 3, dtype=torch.int64), torch.nn.Linear(3, 3)
    given = {"input_ids": ids, "labels": ids, "decoder_input_ids": ids + 1}
    assert with_decoder_inputs(t5(), given) is given
    for raw in (ids, (ids, ids), {"x": ids, "labels": ids}, {"input_ids": ids}):
        assert with_decoder_inputs(plain, raw) is raw
