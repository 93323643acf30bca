"""Is text cut into windows, scored and pruned as it should be, from the tokenizer to the report?"""

import json
import math
import shutil
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
import torchmetrics.text
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

import snp
from snp.data.overlaps import doubts_of
from snp.data.text import TextData
from snp.data.wikitext2 import WikiText2
from snp.data.windows import IGNORED, Windows
from snp.export.text import is_language_model
from snp.measure.visiting import Visits
from snp.models import LanguageModelSpec, build, huggingface
from snp.report.page import write_report
from snp.run.training.scores import Perplexity
from tests.command_line import run_here
from tests.second_device import SECOND, second_device
from tests.transformer_models import SIZES, save_folder, sentences, transformer

STAGES = ("dense", "pruned", "finetuned")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny OPT, and three texts beside it."""
    home = save_folder(tmp_path_factory.mktemp("opt"))
    for name, count, seed in (("train", 60, 0), ("test", 25, 1), ("second", 7, 2)):
        (home / f"{name}.txt").write_text(sentences(count, seed))
    return home


def data_of(folder: Path, **options: object) -> TextData:
    """The texts of the folder, configured for its model."""
    files = {name: str(folder / f"{name}.txt") for name in ("train", "test", "second")}
    data = TextData(**{**files, "context": 10, "batch_size": 4, **options})  # type: ignore[arg-type]
    data.configure(str(folder), 32)
    return data


def by_the_book(tokens: Tensor, context: int, stride: int) -> list[tuple[int, int, list[int]]]:
    """Begin, end and places of the tokens that each window scores: the loop of the documentation of transformers."""
    windows, end_before = [], 0
    for begin in range(0, len(tokens), stride):
        end = min(begin + context, len(tokens))
        windows.append((begin, end, [place for place in range(end_before, end) if place > begin]))
        end_before = end
        if end == len(tokens):
            break
    return [window for window in windows if window[2]]


# ---------------------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize("context", [2, 5, 8])
@pytest.mark.parametrize("length", [2, 3, 7, 8, 9, 15, 16, 17, 24, 25])
def test_windows_score_what_the_literature_scores(length: int, context: int) -> None:
    """At every stride: the same windows, and every label the token behind its place, or none."""
    tokens = torch.arange(100, 100 + length)
    for stride in range(1, context + 1):
        windows = Windows(tokens, context, stride)
        expected = by_the_book(tokens, context, stride)
        assert len(windows) == len(expected)
        for index, (begin, end, scored) in enumerate(expected):
            inputs, labels = windows[index]
            assert inputs.shape == labels.shape == (context,)
            assert torch.equal(inputs[: end - begin], tokens[begin:end])
            places = (labels != IGNORED).nonzero().flatten()
            assert (places + begin + 1).tolist() == scored
            assert torch.equal(labels[places], tokens[places + begin + 1])


@pytest.mark.parametrize("stride", [1, 3, 7])
def test_a_small_stride_scores_every_token_but_the_first_once(stride: int) -> None:
    """Nothing is left out and nothing counts twice."""
    windows = Windows(torch.arange(40), 8, stride)
    labels = torch.cat([labels[labels != IGNORED] for _, labels in (windows[i] for i in range(len(windows)))])
    assert labels.tolist() == list(range(1, 40))


def test_training_windows_are_whole() -> None:
    """Fine-tuning and calibration see no padding, and leave less than a window out."""
    windows = Windows(torch.arange(27), 8, 8, whole_only=True)
    assert [windows[i][0].tolist() for i in range(len(windows))] == [list(range(s, s + 8)) for s in (0, 8, 16)]
    assert len(Windows(torch.arange(7), 8, 8, whole_only=True)) == 0


# ------------------------------------------------------------------------------------------------------- score


def test_perplexity_is_that_of_torchmetrics() -> None:
    """Over batches of different sizes with labels left out."""
    mine, theirs = Perplexity(), torchmetrics.text.Perplexity(ignore_index=IGNORED)
    for count in (1, 4, 2):
        logits, labels = torch.randn(count, 6, 9), torch.randint(0, 9, (count, 6))
        labels[:, -count:] = IGNORED
        mine.update(F.cross_entropy(logits.movedim(-1, 1), labels), int((labels != IGNORED).sum()))
        theirs.update(logits, labels)
    torch.testing.assert_close(mine.compute(), theirs.compute())


def test_perplexity_of_a_sure_and_wrong_network_is_a_number() -> None:
    """A probability below the smallest float is not infinite surprise."""
    metric = Perplexity()
    logits = torch.tensor([[0.0, 120.0]])
    metric.update(F.cross_entropy(logits, torch.tensor([0])), 1)
    metric.update(F.cross_entropy(logits, torch.tensor([1])), 1)
    assert float(metric.compute()) == pytest.approx(math.exp(60), rel=1e-4)


# -------------------------------------------------------------------------------------------------------- data


def test_loaders_give_windows_of_the_texts(folder: Path) -> None:
    """Calibration draws from the training text, repeatably; the test text comes whole."""
    data = data_of(folder)
    train = huggingface.tokenize(folder, (folder / "train.txt").read_text())
    whole = {tuple(row) for row in train[: len(train) // 10 * 10].reshape(-1, 10).tolist()}
    drawn = torch.cat([inputs for inputs, _ in data.calibration_dataloader(7, 3)])
    assert drawn.shape == (7, 10)
    assert {tuple(row) for row in drawn.tolist()} <= whole
    assert torch.equal(drawn, torch.cat([inputs for inputs, _ in data_of(folder).calibration_dataloader(7, 3)]))
    labels = torch.cat([labels for _, labels in data.test_dataloader()])
    assert int((labels != IGNORED).sum()) == len(data.tokens("test")) - len(labels)


def test_several_files_are_one_text(folder: Path) -> None:
    """They are joined by a blank line."""
    both = [str(folder / "train.txt"), str(folder / "second.txt")]
    assert data_of(folder, train=both).text("train") == "\n\n".join(Path(path).read_text() for path in both)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train": None}, "data.train is not set"),
        ({"train": "nowhere.txt"}, "data.train=nowhere.txt: cannot be read"),
        ({"context": 64}, "the model sees 32 tokens"),
        ({"stride": 11}, "data.stride=11"),
        ({"context": 1}, "data.context=1"),
        ({"batch_size": 0}, "data.batch_size=0"),
    ],
)
def test_mistakes_are_named(folder: Path, options: dict[str, object], words: str) -> None:
    """A setting that cannot be is one sentence with its name."""
    with pytest.raises(ValueError, match=words):
        data_of(folder, **options).calibration_dataloader(1, 0)


def test_text_shorter_than_a_window_is_named(folder: Path, tmp_path: Path) -> None:
    """No silent run over nothing."""
    (tmp_path / "short.txt").write_text("the cat")
    with pytest.raises(ValueError, match="do not fill one window of 10"):
        data_of(folder, train=str(tmp_path / "short.txt")).calibration_dataloader(1, 0)


@pytest.mark.parametrize("part", ["test", "second"])
def test_an_empty_text_is_named(part: str, folder: Path, tmp_path: Path) -> None:
    """The first text for scores, and the second one."""
    (tmp_path / "empty.txt").write_text("")
    data = data_of(folder, **{part: str(tmp_path / "empty.txt")})
    with pytest.raises(ValueError, match=rf"data.{part}=\S+/empty.txt: its 0 tokens do not fill one window of 10"):
        data.test_dataloader() if part == "test" else data.second_dataloader()


def test_a_mark_of_the_order_of_bytes_is_no_text(folder: Path, tmp_path: Path) -> None:
    """Files of Windows begin with one."""
    for name in ("wiki.valid.raw", "wiki.test.raw"):
        (tmp_path / name).write_text("the cat runs away .", encoding="utf-8-sig")
    assert data_of(folder, train=str(tmp_path / "wiki.test.raw")).text("train") == "the cat runs away ."
    assert WikiText2(path=str(tmp_path), train_split="valid").text("train") == "the cat runs away ."


def test_text_that_is_trained_on_and_scored_is_told(folder: Path, tmp_path: Path) -> None:
    """The same file, or a part of it under another name; not two texts of one language."""
    assert doubts_of(data_of(folder)) == ()
    (tmp_path / "part.txt").write_text((folder / "train.txt").read_text()[30:200])
    told = "lies in the training text: perplexities on text that was trained on look better than the network is"
    same = {"test": str(folder / "train.txt"), "second": str(tmp_path / "part.txt")}
    assert doubts_of(data_of(folder, **same)) == (f"the text of data.test and of data.second {told}",)
    assert doubts_of(data_of(folder, **same | {"second": None})) == (f"the text of data.test {told}",)


def test_wikitext_comes_from_a_folder(folder: Path, tmp_path: Path) -> None:
    """One file per split, found by name; what is missing is named."""
    for split in ("valid", "test"):
        (tmp_path / f"wiki.{split}.raw").write_text(sentences(5))
    data = WikiText2(path=str(tmp_path), train_split="valid", context=8)
    data.configure(str(folder), 32)
    assert sum(len(tokens) for tokens, _ in data.calibration_dataloader(2, 0)) == 2
    assert data.source("train") == "WikiText-2 valid"
    lacking = WikiText2(path=str(tmp_path), context=8)
    lacking.configure(str(folder), 32)
    with pytest.raises(ValueError, match=r"train in its name is needed, found none among wiki.test.raw, .*valid"):
        lacking.calibration_dataloader(2, 0)


def test_wikitext_without_a_folder_and_without_datasets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way out is named."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    data = WikiText2(context=8)
    data.configure(str(folder), 32)
    with pytest.raises(ValueError, match=r"pip install datasets, or set data.path=FOLDER"):
        data.calibration_dataloader(2, 0)


# ------------------------------------------------------------------------------------------------------- models


def test_recipe_builds_the_same_architecture(folder: Path) -> None:
    """The recipe is JSON, holds no weights, and needs no folder."""
    prepared = LanguageModelSpec("opt", str(folder)).prepare()
    again = build(**json.loads(json.dumps(prepared.recipe)))
    shapes = {name: tensor.shape for name, tensor in prepared.model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == shapes
    again.load_state_dict(prepared.model.state_dict())
    tokens = torch.randint(3, 17, (2, 9))
    assert torch.equal(again.eval()(tokens).logits, prepared.model.eval()(tokens).logits)
    assert prepared.format == {"tokenizer": str(folder), "context": 32}


@pytest.mark.parametrize(
    ("checkpoint", "words"), [(None, "model.checkpoint is not set"), ("nowhere", "there is no config.json")]
)
def test_a_missing_folder_is_named(checkpoint: str | None, words: str) -> None:
    """Before anything is loaded."""
    with pytest.raises(ValueError, match=words):
        LanguageModelSpec("opt", checkpoint).prepare()


def test_weights_that_are_no_safetensors_are_refused(folder: Path, tmp_path: Path) -> None:
    """A pickle is not opened, whatever it holds."""
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"cannot read it as AutoModelForCausalLM.*safetensors"):
        huggingface.load(tmp_path)


def _changed(folder: Path, copy: Path, **options: object) -> Path:
    """A copy of a folder with other values in its configuration."""
    shutil.copytree(folder, copy)
    config = json.loads((folder / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | options))
    return copy


def test_weights_that_are_cut_short_are_refused(folder: Path, tmp_path: Path) -> None:
    """As a download leaves them that was stopped."""
    copy = _changed(folder, tmp_path / "short") / "model.safetensors"
    copy.write_bytes(copy.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"/short: a safetensors file in it is damaged or cut short"):
        huggingface.load(copy.parent)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ffn_dim": 28}, "6 tensors of the network are of another shape than config.json says"),
        (
            {"num_hidden_layers": 3},
            r"16 tensors of the network are not in its files \(model.decoder.layers.2.fc1.bias",
        ),
    ],
)
def test_a_network_is_not_made_up_where_weights_are_lacking(
    options: dict[str, object], words: str, folder: Path, tmp_path: Path
) -> None:
    """Random numbers in their place would give scores of a guess."""
    with pytest.raises(ValueError, match=words):
        huggingface.load(_changed(folder, tmp_path / "other", **options))


def test_a_tokenizer_of_another_model_is_named(folder: Path, tmp_path: Path) -> None:
    """It gives out tokens that the network has no embedding for; and none at all is told from an empty text."""
    other = _changed(folder, tmp_path / "other", vocab_size=8)
    with pytest.raises(ValueError, match=r"/other: its tokenizer gives out token 16, and the model knows 8 "):
        huggingface.tokenize(other, "the cat runs .")
    for path in other.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"/other: there is no tokenizer in this folder"):
        huggingface.tokenize(other, "the cat runs .")


@pytest.mark.filterwarnings("ignore")
def test_an_encoder_has_no_perplexity(tmp_path: Path) -> None:
    """Whatever class it is loaded as; with a mask of the future the same network has one."""
    config = {**SIZES, "intermediate_size": 24, "max_position_embeddings": 32}
    torch.manual_seed(0)
    transformers.BertForMaskedLM(transformers.BertConfig(**config)).save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match=r"/encoder: BertLMHeadModel says of a token what depends on tokens behind it"):
        LanguageModelSpec("bert", str(tmp_path / "encoder")).prepare()
    decoder = _changed(tmp_path / "encoder", tmp_path / "decoder", is_decoder=True)
    assert LanguageModelSpec("bert", str(decoder)).prepare().format["context"] == 32


@pytest.mark.parametrize("name", ["opt", "opt_post_norm", "llama", "qwen2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_language_models_do_not_see_ahead(name: str, dtype: torch.dtype) -> None:
    """In half precision either."""
    assert not huggingface.sees_ahead(transformer(name).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_encoders_that_were_not_trained_see_ahead(dtype: torch.dtype) -> None:
    """What a token says of the others is less than half precision shows then."""
    torch.manual_seed(0)
    config = transformers.BertConfig(**{**SIZES, "hidden_size": 64, "intermediate_size": 24})
    assert huggingface.sees_ahead(transformers.BertForMaskedLM(config).eval().to(dtype))


def test_what_reads_no_text_alone_is_no_causal_language_model() -> None:
    """An encoder-decoder sees its whole text, and a recogniser of speech reads sound."""
    sizes = {"vocab_size": 32, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 4}
    assert huggingface.sees_ahead(transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes)).eval())
    sound = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    sound |= {"conv_dim": (16,), "conv_stride": (5,), "conv_kernel": (10,), "num_conv_pos_embedding_groups": 4}
    assert not is_language_model(transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(vocab_size=32, **sound)))
    assert is_language_model(transformer("opt"))


def test_experts_in_half_precision_do_not_see_ahead() -> None:
    """Which are multiplied by kernels of their own."""
    torch.manual_seed(0)
    config = transformers.MixtralConfig(**{**SIZES, "num_key_value_heads": 2, "num_local_experts": 4})
    assert not huggingface.sees_ahead(transformers.MixtralForCausalLM(config).eval().to(torch.bfloat16))


def test_without_transformers_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is optional."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"snp\[lm\]"):
        LanguageModelSpec("opt", str(folder)).prepare()


# --------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of the command of the README on the tiny OPT."""
    home = tmp_path_factory.mktemp("run")
    texts = [f"data.{name}={folder}/{name}.txt" for name in ("train", "test", "second")]
    options = ["model=opt", f"model.checkpoint={folder}", "data=text", *texts, "data.context=12"]
    small = ["calibration.samples=16", "trainer=cpu", "prune.target_params=0.8"]
    ended = run_here(*options, *small, folder=home, tiny=False)
    assert ended.status == 0, ended.stderr
    assert "perplexity" in ended.stdout
    return home / "run"


def test_metrics_hold_perplexities(folder: Path, finished: Path) -> None:
    """Of every stage and both texts; the dense one is that of a plain loop over the windows."""
    metrics = json.loads((finished / "metrics.json").read_text())
    for stage in STAGES:
        assert metrics[f"{stage}/perplexity"] > 1
        assert metrics[f"{stage}/second_perplexity"] > 1
        assert f"{stage}/acc1_percent" not in metrics
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens = huggingface.tokenize(folder, (folder / "test.txt").read_text())
    total, count = 0.0, 0
    for part in tokens.split(12):
        if len(part) > 1:
            logits = model(part[None]).logits[0, :-1]
            total += float(F.cross_entropy(logits, part[1:], reduction="sum").detach())
            count += len(part) - 1
    assert metrics["dense/perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)
    assert metrics["finetuned/perplexity"] < metrics["pruned/perplexity"]
    assert metrics["calibration/text"] == str(folder / "train.txt")


def test_the_budget_leaves_embeddings_out(finished: Path) -> None:
    """At most 0.8 of the parameters outside tables are left, and the tables are whole."""
    small, dense = snp.load(finished), transformer("opt")
    tables = sum(tensor.numel() for name, tensor in dense.named_parameters() if "embed" in name)
    before, after = (sum(tensor.numel() for tensor in model.parameters()) - tables for model in (dense, small))
    assert 0.7 < after / before <= 0.8
    assert all(
        small.state_dict()[name].shape == tensor.shape for name, tensor in dense.state_dict().items() if "embed" in name
    )


def test_the_report_speaks_of_perplexity(finished: Path) -> None:
    """Page and figure say perplexity, the texts, and nothing of accuracy."""
    page = (finished / "report.md").read_text()
    assert "perplexity" in page
    assert "accuracy" not in page.lower()
    assert "second.txt" in page
    assert "train.txt" in page
    assert "of the parameters outside embeddings" in page
    assert "tokens/s" in page
    assert (finished / "figures" / "perplexity_against_cost.png").exists()
    numbers = (finished / "figures" / "perplexity_against_cost.csv").read_text()
    assert numbers.startswith("stage,params_outside_embeddings,perplexity")
    write_report(finished)
    assert (finished / "report.md").read_text() == page


def test_finished_networks_come_back(folder: Path, finished: Path) -> None:
    """`snp.load` needs nothing but the run folder, and the network scores as recorded."""
    data = data_of(folder, context=12)
    for stage in ("pruned", "finetuned"):
        small = snp.load(finished, weights=stage)
        total = count = 0.0
        with torch.no_grad():
            for inputs, labels in data.test_dataloader():
                total += float(F.cross_entropy(small(inputs).logits.movedim(-1, 1), labels, reduction="sum"))
                count += int((labels != IGNORED).sum())
        recorded = json.loads((finished / "metrics.json").read_text())[f"{stage}/perplexity"]
        assert recorded == pytest.approx(math.exp(total / count), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["model=opt", "model.checkpoint=here"], "this one reads text, and the data are images"),
        (["data=text", "data.train=a", "data.test=b"], "this one reads images, and the data are text"),
    ],
)
def test_model_and_data_of_different_kinds_are_refused(options: list[str], words: str, tmp_path: Path) -> None:
    """In one line, before anything is loaded."""
    ended = run_here(*options, folder=tmp_path, tiny=False)
    assert ended.status == 2
    assert words in ended.stderr


STREAMED = ["calibration.streamed=true", "prune.trials=false"]


@pytest.mark.parametrize(
    "fit",
    [
        pytest.param([], id="defaults"),
        pytest.param(["prune.ordering=zca", "prune.cut=variance"], id="zca", marks=pytest.mark.rehearsal),
        pytest.param(["prune.preset=paper"], id="paper", marks=pytest.mark.rehearsal),
    ],
)
def test_streamed_run_gives_the_plan_and_weights_of_the_usual_one(fit: list[str], folder: Path, tmp_path: Path) -> None:
    """Byte for byte; what lay on disk in between is gone."""
    texts = [f"data.{name}={folder}/{name}.txt" for name in ("train", "test")]
    options = ["model=opt", f"model.checkpoint={folder}", "data=text", *texts, "data.context=12", "finetune.epochs=0"]
    options += ["calibration.samples=16", "trainer=cpu", "logger=none"]
    homes = []
    for name, streaming in (("streamed", STREAMED), ("whole", STREAMED[1:])):
        ended = run_here(*options, *streaming, *fit, "prune.target_params=0.8", folder=tmp_path / name, tiny=False)
        assert ended.status == 0, ended.stderr
        homes.append(tmp_path / name / "run")
    for artefact in ("plan.json", "pruned.safetensors"):
        assert (homes[0] / artefact).read_bytes() == (homes[1] / artefact).read_bytes(), artefact
    assert not list(homes[0].glob("moments*"))
    assert json.loads((homes[0] / "metrics.json").read_text())["calibration/samples"] == 16


@pytest.mark.rehearsal
def test_blocks_of_a_streamed_run_visit_another_device(folder: Path, tmp_path: Path) -> None:
    """The network waits in main memory from calibration to the small network, which is that of a run without it."""
    texts = [f"data.{name}={folder}/{name}.txt" for name in ("train", "test")]
    options = ["model=opt", f"model.checkpoint={folder}", "data=text", *texts, "data.context=12", "finetune.epochs=0"]
    options += ["calibration.samples=16", "trainer=cpu", "logger=none", "prune.target_params=0.8", *STREAMED]
    here = run_here(*options, folder=tmp_path / "here", tiny=False)
    visiting: list[torch.device | None] = []

    def of(self: Visits, model: nn.Module) -> AbstractContextManager[None]:
        assert {tensor.device.type for tensor in model.parameters()} == {"cpu"}
        visiting.append(self.device)
        return whole(self, model)

    whole = Visits.of
    with second_device(), patch.object(Visits, "of", of):
        there = run_here(
            *options, "trainer._target_=tests.second_device.trainer", folder=tmp_path / "there", tiny=False
        )
    assert (here.status, there.status) == (0, 0), there.stderr
    assert set(visiting) == {SECOND}
    plans = [json.loads((tmp_path / at / "run" / "plan.json").read_text())["groups"] for at in ("here", "there")]
    assert plans[0] == plans[1]
    weights = [load_file(tmp_path / at / "run" / "pruned.safetensors") for at in ("here", "there")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (STREAMED[:1], "prune.trials=false"),
        ([*STREAMED, "prune.structures=[ffn,vo]"], "prune.structures=['ffn']"),
        (["calibration.streamed=maybe"], "must be true or false"),
    ],
)
def test_what_streaming_cannot_do_is_refused(options: list[str], words: str, folder: Path, tmp_path: Path) -> None:
    """In one line, before anything is loaded."""
    given = ["model=opt", f"model.checkpoint={folder}", "data=text", f"data.train={folder}/train.txt", "logger=none"]
    ended = run_here(*given, *options, f"data.test={folder}/test.txt", folder=tmp_path, tiny=False)
    assert ended.status == 2
    assert words in ended.stderr
