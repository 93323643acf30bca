"""Are the samples the right ones, each seen as often as it should be, and are mistakes in the data named?"""

import csv
import hashlib
import inspect
import io
import pickle
import random
import re
import tarfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from PIL import Image
from timm.data import ImageNetInfo
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset
from torch.utils.data.distributed import DistributedSampler
from torchvision.datasets import CIFAR10
from torchvision.transforms.v2 import functional

from snp.data import data_sets, other, overlaps
from snp.data.archive import StoredImage, list_images, read
from snp.data.base import ImageData, ImageFormat, TransformedSamples
from snp.data.cifar10 import CLASSES, Cifar10
from snp.data.digit_pairs import CANVAS, DigitPairs, write_pairs
from snp.data.digits import Digits, handwritten
from snp.data.image_folder import ImageFolder
from snp.data.imagenet import ImageNet
from snp.data.overlaps import doubts_of
from snp.data.sampling import ExactlyOnceSampler
from snp.data.splits import stratified, subset
from snp.data.text import TextData
from snp.data.transforms import RandomShift, of_photographs, of_small_images
from snp.data.wikitext2 import WikiText2

CONF = Path(__file__).parents[2] / "conf"
ALL_NAMES = sorted(path.stem for path in (CONF / "data").glob("*.yaml") if path.stem != "other")
TEXT_NAMES = ("text", "wikitext2")  # tests/test_language.py has their contract
DATA_NAMES = sorted(set(ALL_NAMES) - set(TEXT_NAMES))
WNIDS = ("n01484850", "n01440764", "n15075141")  # labels 2, 0 and 999
HALF = (0.5, 0.5, 0.5)


def png(seed: int, size: int = 32) -> bytes:
    """A noise image, encoded without loss; the same for the same seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def files_of(folders: tuple[str, ...], num_each: int, size: int = 32) -> dict[str, bytes]:
    """`num_each` images, all different, in each of the folders."""
    names = [f"{folder}/{index}.png" for folder in folders for index in range(num_each)]
    return {name: png(seed, size) for seed, name in enumerate(names)}


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    """The files as files below `root`."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    """The files as members of a tar file, in the order given."""
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def make(name: str, root: Path) -> ImageData:
    """A small data set of every kind, configured for 32 x 32 pixels."""
    data: ImageData
    if name == "digits":
        data = Digits(batch_size=100)
    elif name == "digit_pairs":
        data = DigitPairs(batch_size=500)
    elif name == "cifar10":
        write_tar(root / "train.tar", files_of(CLASSES, 4))
        write_tar(root / "test.tar", files_of(CLASSES, 2))
        data = Cifar10(str(root), batch_size=7)
    elif name == "imagenet":
        write_folder(root / "train", files_of(WNIDS, 5, 40))
        write_folder(root / "val", files_of(WNIDS, 3, 40))
        data = ImageNet(str(root), batch_size=4, num_workers=0, image_size=32)
    else:
        write_folder(root, files_of(("a", "b"), 10, 40))
        data = ImageFolder(str(root), batch_size=4, num_workers=0, image_size=32)
    data.configure(32, HALF, HALF, "bilinear", 0.875)
    return data


def all_of(loader: DataLoader) -> tuple[torch.Tensor, torch.Tensor]:
    """All images and labels of a loader, in its order."""
    batches = list(loader)
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def keys_of(images: torch.Tensor) -> Counter[str]:
    """How often each image occurs, by the digest of its values."""
    return Counter(hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest() for image in images)


# ------------------------------------------------------------------------------------------ every data set


@pytest.mark.parametrize("name", DATA_NAMES)
def test_loaders_yield_images_and_labels(name: str, tmp_path: Path) -> None:
    """All loaders of every data set give float32 images and int64 labels below the number of classes."""
    data = make(name, tmp_path)
    data.setup()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.calibration_dataloader(8, seed=0)):
        images, labels = next(iter(loader))
        assert images.dtype == torch.float32
        assert images.shape == (len(labels), 3, 32, 32)
        assert labels.dtype == torch.int64
        assert 0 <= labels.min() <= labels.max() < data.num_classes


@pytest.mark.parametrize("name", DATA_NAMES)
def test_calibration_is_fixed_and_from_the_training_part(name: str, tmp_path: Path) -> None:
    """The same seed gives the same images in the same order, each of them a training image and each only once."""
    data = make(name, tmp_path)
    images, labels = all_of(data.calibration_dataloader(12, seed=5))
    again, same_labels = all_of(data.calibration_dataloader(12, seed=5))
    others, _ = all_of(data.calibration_dataloader(12, seed=6))
    assert torch.equal(images, again)
    assert torch.equal(labels, same_labels)
    assert not torch.equal(images, others)
    assert data.format is not None
    plain = TransformedSamples(data.samples("train"), data.transform(data.format, training=False))
    training = keys_of(torch.stack([plain[index][0] for index in range(len(plain))]))
    assert len(images) == 12
    assert not keys_of(images) - training


@pytest.mark.parametrize("name", DATA_NAMES)
def test_training_validation_and_test_share_nothing(name: str, tmp_path: Path) -> None:
    """What chooses looks at samples that are neither trained on nor calibrated on nor reported."""
    data = make(name, tmp_path)
    again = tmp_path.with_name(f"{tmp_path.name}_again")
    again.mkdir()
    counts = data.counts()
    apart, test = (keys_of(all_of(loader)[0]) for loader in (data.val_dataloader(), data.test_dataloader()))
    trained = keys_of(all_of(data.calibration_dataloader(counts["train"], seed=0))[0])
    assert counts == {"train": trained.total(), "val": apart.total(), "test": test.total()}
    assert not apart & trained
    if name in ("digits", "image_folder"):  # one lot of images, divided here
        assert not (apart | trained) & test
    assert [labels.tolist() for _, labels in data.val_dataloader()] == [
        labels.tolist() for _, labels in make(name, again).val_dataloader()
    ]


def test_a_validation_part_of_its_own(tmp_path: Path) -> None:
    """Folders train, val and test are taken by their names; with train and val alone, val is for testing."""
    for part, count in (("train", 20), ("val", 4), ("test", 6)):
        write_folder(tmp_path / "three" / part, files_of(("a", "b"), count))
        if part != "test":
            write_folder(tmp_path / "two" / part, files_of(("a", "b"), count))
    three, two = (ImageFolder(str(tmp_path / name), num_workers=0) for name in ("three", "two"))
    for data in (three, two):
        data.configure(32, HALF, HALF, "bilinear", 1.0)
    assert three.counts() == {"train": 40, "val": 8, "test": 12}
    assert two.counts() == {"train": 36, "val": 4, "test": 8}
    two.val_fraction = 0
    assert two.val_dataloader() == []
    with pytest.raises(ValueError, match=r"data\.val_fraction=1"):
        ImageFolder(str(tmp_path / "two"), val_fraction=1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_is_the_same_wherever_training_begins(num_workers: int, tmp_path: Path) -> None:
    """The order of the third epoch does not depend on whether the first two were drawn by this process."""
    write_folder(tmp_path, files_of(("a", "b"), 20))
    orders = []
    for first in (0, 2):
        data = ImageFolder(str(tmp_path), batch_size=4, num_workers=num_workers)
        data.configure(32, HALF, HALF, "bilinear", 1.0)
        loader = data.train_dataloader()
        for epoch in range(first, 3):
            loader.sampler.set_epoch(epoch)
            random.seed(epoch)
            torch.manual_seed(epoch)
            drawn = [(labels.tolist(), images.sum().item()) for images, labels in loader]
        orders.append(drawn)
    assert orders[0] == orders[1]


@pytest.mark.parametrize("name", DATA_NAMES)
def test_training_varies_and_testing_does_not(name: str, tmp_path: Path) -> None:
    """Training images are seen differently each time, test images always alike."""
    data = make(name, tmp_path)
    data.setup()
    assert data.train_set is not None
    assert data.test_set is not None
    assert len({data.train_set[0][0].numpy().tobytes() for _ in range(8)}) > 1
    assert len({data.test_set[0][0].numpy().tobytes() for _ in range(8)}) == 1


@pytest.mark.parametrize("name", DATA_NAMES)
def test_test_loader_shows_everything_once_in_order(name: str, tmp_path: Path) -> None:
    """The test loader leaves nothing out, repeats nothing and does not shuffle."""
    data = make(name, tmp_path)
    data.setup("test")
    assert data.test_set is not None
    images, labels = all_of(data.test_dataloader())
    assert labels.tolist() == [data.test_set[index][1] for index in range(len(data.test_set))]
    assert torch.equal(images[-1], data.test_set[len(data.test_set) - 1][0])


@pytest.mark.parametrize("name", DATA_NAMES)
def test_too_many_calibration_samples(name: str, tmp_path: Path) -> None:
    """Where more are asked for than the training part has, all of it is taken, each sample once."""
    data = make(name, tmp_path)
    num_there = data.counts()["train"]
    assert data.num_drawn(100000) == num_there
    assert data.num_drawn(num_there - 1) == num_there - 1
    images, labels = all_of(data.calibration_dataloader(100000, seed=0))
    assert len(labels) == num_there - data.num_repeats(100000, seed=0)
    assert torch.equal(images, all_of(data.calibration_dataloader(num_there, seed=0))[0])


@pytest.mark.parametrize("name", ALL_NAMES)
def test_conf_lists_all_keys(name: str) -> None:
    """Every file in conf/data lists every argument of its class, gives a valid one of it, and has its name."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        # The digits are shown at a size that the model names.
        config = compose("config", overrides=[f"data={name}"]).data
    arguments = inspect.signature(get_class(config["_target_"])).parameters
    assert set(config) - {"_convert_"} == {"_target_", *arguments}
    data = instantiate(config)
    assert isinstance(data, TextData if name in TEXT_NAMES else ImageData)
    assert data.name == name
    if name in DATA_NAMES:
        assert data.trains_from_scratch == (name != "imagenet")


def test_data_sets_have_a_name_each() -> None:
    """By name comes what the file of that name makes; a name that is none is refused with the nearest."""
    assert data_sets() == ALL_NAMES
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for name in ALL_NAMES:
            config = compose("config", overrides=[f"data={name}"]).data
            arguments = {
                key: value for key, value in OmegaConf.to_container(config, resolve=True).items() if key[0] != "_"
            }
            assert type(other(name, arguments)) is get_class(config["_target_"])
        assert isinstance(instantiate(compose("config", overrides=["data=other"]).data), Digits)
    with pytest.raises(ValueError, match=r"data\.name must be one of cifar10, .*; did you mean digits\?"):
        other("digit")


@pytest.mark.parametrize(
    ("key", "value"), [("batch_size", 0), ("num_workers", -1), ("image_size", 0), ("batch_size", -3)]
)
def test_numbers_that_make_no_sense(key: str, value: int) -> None:
    """A batch size, a number of workers or an image size out of range is named."""
    with pytest.raises(ValueError, match=rf"data\.{key}={value}: choose at least"):
        Digits(**{key: value})


@pytest.mark.parametrize("key", ["batch_size", "num_workers", "image_size"])
@pytest.mark.parametrize("value", ["many", 1.5, True])
def test_what_is_no_whole_number_is_named(key: str, value: object) -> None:
    """A word or a fraction is refused with its option, not somewhere inside a loader."""
    with pytest.raises(ValueError, match=rf"data\.{key} must be a whole number of at least \d, found {value!r}"):
        Digits(**{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "given", "sentence"),
    [
        (ImageFolder, {"root": ["a", "b"]}, "data.root must be one path, found ['a', 'b']"),
        (ImageFolder, {"root": True}, "data.root must be one path, found True"),
        (Cifar10, {"root": {}}, "data.root must be one path, found {}"),
        (ImageNet, {"root": 2024.1}, "data.root must be one path, found 2024.1; write ./NAME"),
        (WikiText2, {"path": ["a"]}, "data.path must be one path, found ['a']"),
        (TextData, {"train": {"a": 1}}, "data.train must be one path, found {'a': 1}"),
        (TextData, {"second": [["a"]]}, "data.second must be one path, found ['a']"),
        (ImageFolder, {"root": "x", "test_fraction": "x"}, "data.test_fraction must be a number in [0, 1)"),
        (ImageFolder, {"root": "x", "test_fraction": 1}, "data.test_fraction=1: choose a number in [0, 1)"),
        (ImageFolder, {"root": "x", "split_seed": "abc"}, "data.split_seed must be a whole number from 0 to 9223"),
        (ImageFolder, {"root": "x", "split_seed": -1}, "data.split_seed must be a whole number from 0 to 9223"),
        (Digits, {"val_fraction": "x"}, "data.val_fraction must be a number in [0, 1), found 'x'"),
        (Digits, {"val_fraction": None}, "data.val_fraction must be a number in [0, 1), found None"),
        (TextData, {"val_fraction": True}, "data.val_fraction must be a number in [0, 1), found True"),
        (Digits, {"batch_size": None}, "data.batch_size must be a whole number of at least 1, found None"),
    ],
)
def test_paths_shares_and_seeds_of_another_kind(make: Any, given: dict[str, Any], sentence: str) -> None:
    """They are named when the data set is made, before anything is read."""
    with pytest.raises(ValueError, match=rf"^{re.escape(sentence)}"):
        make(**given)


def test_a_path_that_is_a_number() -> None:
    """It is the name of a folder or a file."""
    assert [ImageFolder(2024).root, Cifar10(7).root, WikiText2(3).path] == ["2024", "7", "3"]  # type: ignore[arg-type]
    text = TextData(5, [6, "a"])  # type: ignore[arg-type,list-item]
    assert text.files == {"train": "5", "test": ["6", "a"], "second": None}


@pytest.mark.parametrize(("batch_size", "num_batches"), [(4, 4), (16, 1), (17, 1), (8, 2)])
def test_last_small_batch_is_dropped_only_if_others_remain(batch_size: int, num_batches: int, tmp_path: Path) -> None:
    """16 training samples: 4 batches of 4; one batch when they all fit in."""
    write_folder(tmp_path, files_of(("a", "b"), 10))
    data = ImageFolder(str(tmp_path), batch_size=batch_size, num_workers=0, val_fraction=0)
    data.configure(32, HALF, HALF, "bilinear", 1.0)
    assert len(list(data.train_dataloader())) == num_batches


def test_dropped_batch(tmp_path: Path) -> None:
    """Of 16 training samples in batches of 5, the single last one is left out."""
    write_folder(tmp_path, files_of(("a", "b"), 10))
    data = ImageFolder(str(tmp_path), batch_size=5, num_workers=0, val_fraction=0)
    data.configure(32, HALF, HALF, "bilinear", 1.0)
    assert [len(labels) for _, labels in data.train_dataloader()] == [5, 5, 5]


def test_dropped_batch_of_three_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 training samples each sees six, one twice: in batches of 5, the single last one is left out."""
    write_folder(tmp_path, files_of(("a", "b"), 10))
    data = ImageFolder(str(tmp_path), batch_size=5, num_workers=0, val_fraction=0)
    data.configure(32, HALF, HALF, "bilinear", 1.0)
    for module in ("loading", "sampling"):
        monkeypatch.setattr(f"snp.data.{module}.num_processes", lambda: 3)
    monkeypatch.setattr(dist, "get_rank", lambda *_: 0)
    assert [len(labels) for _, labels in data.train_dataloader()] == [5]


def divided() -> dict[str, bytes]:
    """Two classes in three parts, all images different."""
    return files_of(tuple(f"{part}/{name}" for part in ("train", "val", "test") for name in "ab"), 3)


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_images_in_two_classes_or_two_parts_are_counted(kind: str, tmp_path: Path) -> None:
    """With an example each; the graver one first. Copies inside a class of one part, and equal sizes, are no matter."""
    files = divided()
    files["train/a/again.png"] = files["train/a/0.png"]
    quiet = ImageFolder(str(write_folder(tmp_path / "quiet", files)))
    assert doubts_of(quiet) == ()
    files["train/b/x.png"] = files["train/a/1.png"]
    files["test/a/y.png"], files["test/a/z.png"] = files["train/a/2.png"], files["val/a/2.png"]
    root = write_folder(tmp_path / "data", files) if kind == "folder" else write_tar(tmp_path / "data.tar", files)
    classes, parts = doubts_of(ImageFolder(str(root)))
    assert classes.startswith(
        "1 image lies in two classes (train/a/1.png and train/b/x.png): one of the two labels is wrong"
    )
    assert parts.startswith(
        "2 images lie in two parts, as training and test (train/a/2.png and test/a/y.png): scores on"
    )


def test_copies_that_a_random_division_tears_apart_are_found(tmp_path: Path) -> None:
    """In a folder that is not divided, where training and test parts are drawn."""
    files = files_of(("a", "b"), 20)
    files |= {name.replace("/", "/copy_"): content for name, content in files.items()}
    (sentence,) = doubts_of(ImageFolder(str(write_folder(tmp_path, files))))
    assert re.match(r"\d+ images lie in two parts, as training and test \(a/\S+ and a/\S+\): ", sentence)


def test_no_end_of_images_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many nothing is looked for; of other data nothing is known."""
    files = divided()
    files["test/a/y.png"] = files["train/a/2.png"]
    data = ImageFolder(str(write_folder(tmp_path, files)))
    assert len(doubts_of(data)) == 1
    monkeypatch.setattr(overlaps, "MOST_IMAGES", len(files) - 1)
    assert doubts_of(data) == ()
    assert doubts_of(Digits()) == ()


# ------------------------------------------------------------------------------------------ sampling and splits


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_image_under_several_names_is_calibrated_on_once(num_workers: int, tmp_path: Path) -> None:
    """Also where it was written in another format, or as a JPEG; training sees every file."""
    first = files_of(("train/a", "train/b"), 6, 40)
    with Image.open(io.BytesIO(first["train/a/0.png"])) as image:
        # A photograph, so that JPEG keeps it: noise would not stay what it is.
        smooth = image.resize((4, 4)).resize((40, 40), Image.Resampling.BICUBIC)
    again: dict[str, bytes] = {f"train/b/again{number}.png": first[f"train/a/{number}.png"] for number in range(3)}
    for name, options in (("c/0.png", {}), ("c/1.bmp", {}), ("c/2.jpg", {"quality": 90})):
        buffer = io.BytesIO()
        smooth.save(buffer, {"png": "PNG", "bmp": "BMP", "jpg": "JPEG"}[name[-3:]], **options)
        again[f"train/{name}"] = buffer.getvalue()
    write_folder(tmp_path, first | again | files_of(("test/a", "test/b", "test/c"), 1, 40))
    data = ImageFolder(str(tmp_path), batch_size=4, num_workers=num_workers, image_size=40, val_fraction=0.0)
    data.configure(40, HALF, HALF, "bilinear", 1.0)
    images, _ = all_of(data.calibration_dataloader(18, seed=0))
    assert len(images) == len(keys_of(images)) == 13
    assert data.num_repeats(18, seed=0) == 5
    assert sum(len(batch) for batch, _ in data.train_dataloader()) >= 16
    before = all_of(data.calibration_dataloader(18, seed=0, whole=True))[0]
    assert torch.equal(images, before)


@pytest.mark.parametrize("num_samples", [0, 1, 7, 103])
@pytest.mark.parametrize("num_replicas", [1, 2, 3, 8])
@pytest.mark.parametrize("block", [1, 4])
def test_exactly_once_sampler_partitions(num_samples: int, num_replicas: int, block: int) -> None:
    """The ranks' samples are disjoint, together they are all samples in whole blocks, and lengths tell the truth."""
    dataset = TensorDataset(torch.zeros(num_samples))
    samplers = [ExactlyOnceSampler(dataset, block, num_replicas, rank) for rank in range(num_replicas)]
    seen = [list(sampler) for sampler in samplers]
    blocks = {tuple(indices[at : at + block]) for indices in seen for at in range(0, len(indices), block)}
    assert blocks == {tuple(range(num_samples)[at : at + block]) for at in range(0, num_samples, block)}
    assert sorted(index for indices in seen for index in indices) == list(range(num_samples))
    assert [len(sampler) for sampler in samplers] == [len(indices) for indices in seen]
    assert max(map(len, seen)) - min(map(len, seen)) <= block
    assert all(isinstance(sampler, DistributedSampler) for sampler in samplers)


def write_what_a_rank_sees(rank: int, folder: str) -> None:
    """One of two processes: note every test and calibration image that this rank is shown."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    data = Digits(batch_size=50)
    data.configure(8, HALF, HALF, "bilinear", 1.0)
    test_images, _ = all_of(data.test_dataloader())
    calibration_images, _ = all_of(data.calibration_dataloader(101, seed=0))
    np.savez(f"{folder}/rank{rank}.npz", test=test_images.numpy(), calibration=calibration_images.numpy())
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_see_everything_once(tmp_path: Path) -> None:
    """Two real processes together see exactly what one process sees, in testing and in calibration."""
    mp.spawn(write_what_a_rank_sees, args=(str(tmp_path),), nprocs=2)
    ranks = [np.load(tmp_path / f"rank{rank}.npz") for rank in range(2)]
    data = Digits(batch_size=50)
    data.configure(8, HALF, HALF, "bilinear", 1.0)
    for part, loader in (("test", data.test_dataloader()), ("calibration", data.calibration_dataloader(101, seed=0))):
        together = torch.cat([torch.from_numpy(rank[part]) for rank in ranks])
        assert keys_of(together) == keys_of(all_of(loader)[0])


@pytest.mark.parametrize("test_fraction", [0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("sizes", [(1,) * 10, (2, 3), (50, 7, 1, 1), (100,), (0, 4, 0, 4)])
def test_split_is_stratified(sizes: tuple[int, ...], test_fraction: float) -> None:
    """Parts are disjoint, complete and not empty, and hold each class's share to within one sample."""
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    train, test = stratified(labels, test_fraction, seed=3)
    assert sorted(train + test) == list(range(len(labels)))
    assert train
    assert test
    share = len(test) / len(labels)
    counts = Counter(labels[index] for index in test)
    assert all(abs(counts[label] - size * share) < 1 + 1e-9 for label, size in enumerate(sizes))
    assert (train, test) == stratified(labels, test_fraction, seed=3)


def test_split_depends_on_the_seed() -> None:
    """Another seed gives another split, also of classes with one sample each."""
    labels = list(range(50))
    assert stratified(labels, 0.5, seed=0) != stratified(labels, 0.5, seed=1)


@pytest.mark.parametrize(
    ("labels", "test_fraction", "message"),
    [([0, 1], 0.0, r"data\.test_fraction=0\.0"), ([0, 1], 1.5, "between 0 and 1"), ([0], 0.5, "at least two")],
)
def test_split_that_cannot_be(labels: list[int], test_fraction: float, message: str) -> None:
    """Fractions that leave a part empty and single samples are refused."""
    with pytest.raises(ValueError, match=message):
        stratified(labels, test_fraction, seed=0)


def test_subset_grows() -> None:
    """A larger choice with the same seed begins with the smaller one, and samples do not repeat."""
    assert subset(100, 40, seed=2)[:10] == subset(100, 10, seed=2)
    assert len(set(subset(100, 100, seed=2))) == 100


def test_subset_of_nothing() -> None:
    """Asking for no sample at all is refused."""
    with pytest.raises(ValueError, match=r"calibration\.samples=0"):
        subset(10, 0, seed=0)


# ------------------------------------------------------------------------------------------ transforms


def test_shift_moves_and_fills_with_zeros() -> None:
    """A lone pixel lands on each of the 3 x 3 places within reach, and nothing else lights up."""
    image = torch.zeros(3, 5, 5, dtype=torch.uint8)
    image[:, 2, 2] = 200
    moved = [RandomShift(1)(image) for _ in range(300)]
    assert {tuple(divmod(int(image[0].argmax()), 5)) for image in moved} == {
        (row, column) for row in (1, 2, 3) for column in (1, 2, 3)
    }
    assert all(image.sum() == 600 and image.shape == (3, 5, 5) for image in moved)


def test_small_images_are_scaled_and_normalized() -> None:
    """Evaluation computes (x / 255 - mean) / std per channel, and resizes only when the size differs."""
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    transform = of_small_images(
        ImageFormat(32, tuple(mean.tolist()), tuple(std.tolist()), "bicubic", 0.9), shift=0, flip=False
    )
    expected = (image / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(transform(image), expected)
    larger = of_small_images(ImageFormat(48, HALF, HALF, "lanczos", 0.9), shift=4, flip=True)
    assert larger(image).shape == (3, 48, 48)


@pytest.mark.parametrize("training", [False, True])
def test_photographs_of_one_colour(training: bool) -> None:
    """An image of one colour stays of one colour, normalised, whatever its size and the crop."""
    image = Image.new("RGB", (70, 50), (255, 0, 51))
    seen = of_photographs(ImageFormat(32, HALF, (0.5, 0.25, 0.5), "bicubic", 0.875), training=training)(image)
    assert seen.shape == (3, 32, 32)
    torch.testing.assert_close(seen.mean(dim=(1, 2)), torch.tensor([1.0, -2.0, -0.6]))
    assert seen.std(dim=(1, 2)).max() < 1e-5


def test_photographs_keep_the_centre() -> None:
    """Evaluation crops the centre: with a crop fraction of one half, the border of half the width is gone."""
    image = Image.new("RGB", (64, 64))
    image.paste((255, 255, 255), (16, 16, 48, 48))
    seen = of_photographs(ImageFormat(32, (0.0,) * 3, (1.0,) * 3, "nearest", 0.5), training=False)(image)
    assert torch.equal(seen, torch.ones(3, 32, 32))


# ------------------------------------------------------------------------------------------ digits


def test_digits_are_divided_for_good() -> None:
    """1,438 and 359 digits, together scikit-learn's, every class with its share in the test part."""
    data = Digits(val_fraction=0)
    data.configure(8, (0.0,) * 3, (1.0,) * 3, "bilinear", 1.0)
    data.setup()
    assert data.counts() == {"train": 1438, "test": 359}
    test_images, test_labels = all_of(data.test_dataloader())
    train_images, train_labels = all_of(data.calibration_dataloader(1438, seed=0))
    assert len(test_images) + len(train_images) == 1797
    everything = Counter(torch.cat([test_labels, train_labels]).tolist())
    shares = [count / everything[label] for label, count in Counter(test_labels.tolist()).items()]
    assert max(shares) - min(shares) < 0.02
    from sklearn.datasets import load_digits

    original = torch.from_numpy(load_digits().images).mul(255 / 16).round().byte()
    both = torch.cat([test_images, train_images]).mul(255).round().byte()
    assert keys_of(both[:, 0]) == keys_of(original)


def test_digits_grow_to_the_network() -> None:
    """Digits come in the size asked for, grey in three channels, and look the same seen from afar."""
    data = Digits()
    data.configure(64, (0.0,) * 3, (1.0,) * 3, "bilinear", 1.0)
    images, _ = all_of(data.test_dataloader())
    assert images.shape[1:] == (3, 64, 64)
    assert torch.equal(images[:, 0], images[:, 2])
    data.configure(8, (0.0,) * 3, (1.0,) * 3, "bilinear", 1.0)
    small, _ = all_of(data.test_dataloader())
    afar = torch.nn.functional.avg_pool2d(images, 8)
    correlation = torch.corrcoef(torch.stack([afar.flatten(), small.flatten()]))[0, 1]
    assert correlation > 0.95


def test_pairs_of_digits_are_what_they_say() -> None:
    """Left the tens and right the units, over each other; always the same, and no handwriting is in both parts."""
    squares = torch.arange(1, 11).div(10).view(10, 1, 1).expand(10, 8, 8)
    numbers, labels = write_pairs(squares, torch.arange(10), 200, seed=5, noise=0.0)
    for image, label in zip(numbers[:, 0].div(25.5).round().int() - 1, labels.tolist(), strict=True):
        columns = image.amax(0)
        shown = columns[columns >= 0].tolist()
        assert (shown[0], shown[-1]) == divmod(label, 10)
        assert len(shown) < 16
    data = DigitPairs(val_fraction=0)
    assert data.num_classes == 100
    data.configure(CANVAS, (0.0,) * 3, (1.0,) * 3, "bilinear", 1.0)
    images, labels = all_of(data.test_dataloader())
    assert (len(images), labels.min(), labels.max()) == (2000, 0, 99)
    again = DigitPairs(val_fraction=0)
    again.configure(CANVAS, (0.0,) * 3, (1.0,) * 3, "bilinear", 1.0)
    assert torch.equal(all_of(again.test_dataloader())[0], images)
    written = keys_of((16 * handwritten("train")[0]).round().byte().unsqueeze(1))
    assert not written & keys_of((16 * handwritten("test")[0]).round().byte().unsqueeze(1))


# ------------------------------------------------------------------------------------------ folders and tar files


def test_tar_and_folder_hold_the_same(tmp_path: Path) -> None:
    """A tar file and the folder it was made of list the same images with the same pixels, whatever its order."""
    files = files_of(("b", "a", "c/d"), 3)
    folder = list_images(write_folder(tmp_path / "folder", files))
    archive = list_images(write_tar(tmp_path / "images.tar", dict(reversed(files.items()))))
    assert [image.name for image in folder] == [image.name for image in archive] == sorted(files)
    assert all(read(one).tobytes() == read(other).tobytes() for one, other in zip(folder, archive, strict=True))


def test_other_files_are_left_out(tmp_path: Path) -> None:
    """Hidden files, lists and links are no images; endings in capitals are."""
    files = {"a/1.PNG": png(0), "a/._1.png": png(1), ".git/2.png": png(2), "labels.csv": b"a", "./a/3.jpeg": png(3)}
    folder = write_folder(tmp_path / "folder", files)
    path = write_tar(tmp_path / "images.tar", files)
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("a/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert [image.name for image in list_images(path)] == ["a/1.PNG", "a/3.jpeg"]
    assert [image.name for image in list_images(folder)] == ["a/1.PNG", "a/3.jpeg"]


@pytest.mark.parametrize("name", ["../evil/1.png", "/etc/1.png", "a/../../1.png"])
def test_names_that_point_outside(name: str, tmp_path: Path) -> None:
    """A tar file with a member outside of it is refused, and nothing is written anywhere."""
    path = write_tar(tmp_path / "images.tar", {"a/1.png": png(0), name: png(1)})
    with pytest.raises(ValueError, match="points outside of the tar file"):
        list_images(path)
    assert [path.name for path in tmp_path.iterdir()] == ["images.tar"]


def test_compressed_tar(tmp_path: Path) -> None:
    """A compressed tar file is refused with what to do."""
    path = write_tar(tmp_path / "images.tar.gz", {"a/1.png": png(0)}, "w:gz")
    with pytest.raises(ValueError, match=r"not a plain tar file .*must be decompressed"):
        list_images(path)


def test_missing_root(tmp_path: Path) -> None:
    """A root that is not there is named."""
    with pytest.raises(FileNotFoundError, match=r"data\.root=.*nowhere: there is no such folder or tar file"):
        list_images(tmp_path / "nowhere")


def test_broken_image(tmp_path: Path) -> None:
    """Bytes that are no image are named with the file they are in."""
    path = write_tar(tmp_path / "images.tar", {"a/1.png": b"not an image"})
    with pytest.raises(ValueError, match=r"a/1\.png in .*images\.tar is not a readable image: its bytes are"):
        read(list_images(path)[0])


def test_several_workers_read_one_tar(tmp_path: Path) -> None:
    """Loading processes read the same images from one tar file as the main process does."""
    path = write_tar(tmp_path / "images.tar", files_of(("a", "b"), 20))
    seen = []
    for num_workers in (0, 2):
        data = ImageFolder(str(path), batch_size=3, num_workers=num_workers, val_fraction=0)
        data.configure(32, HALF, HALF, "bilinear", 1.0)
        seen.append(all_of(data.calibration_dataloader(32, seed=0)))
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1], seen[1][1])


def labels_by_image(data: ImageData, part: str) -> dict[bytes, int]:
    """Label of every raw image of a part, by its pixels."""
    samples = data.samples(part)  # type: ignore[arg-type]
    return {samples[index][0].tobytes(): samples[index][1] for index in range(len(samples))}  # type: ignore[arg-type]


@pytest.mark.parametrize("wrapper", ["", "outer/", "outer/inner/"])
@pytest.mark.parametrize("test_folder", ["test", "val"])
@pytest.mark.parametrize("as_tar", [False, True])
def test_division_by_folders(wrapper: str, test_folder: str, as_tar: bool, tmp_path: Path) -> None:
    """Folders train and test (or val) are the parts, in folders and tar files, wrapped in others or not."""
    files = {
        f"{wrapper}{name}": content
        for name, content in files_of(("train/x", "train/y", f"{test_folder}/x", f"{test_folder}/y"), 2).items()
    }
    root = write_tar(tmp_path / "images.tar", files) if as_tar else write_folder(tmp_path / "images", files)
    data = ImageFolder(str(root), num_workers=0)
    assert data.class_names() == ("x", "y")
    for part, folder in (("train", "train"), ("test", test_folder)):
        expected = {
            Image.open(io.BytesIO(content)).tobytes(): int("/y/" in name)
            for name, content in files.items()
            if f"{folder}/" in name
        }
        assert labels_by_image(data, part) == expected


def test_nothing_is_set_apart_where_there_is_a_test_part(tmp_path: Path) -> None:
    """Without one it has to be, and that is said before anything else."""
    write_folder(tmp_path, files_of(("train/a", "train/b", "test/a", "test/b"), 2))
    divided = ImageFolder(str(tmp_path), num_workers=0, test_fraction=0)
    assert (len(divided.samples("train")), len(divided.samples("test"))) == (4, 4)
    whole = ImageFolder(str(tmp_path / "train"), num_workers=0, test_fraction=0.0)
    with pytest.raises(ValueError, match=r"^data\.test_fraction=0: .* has no part to test on; choose a number between"):
        _ = whole.requirements


def test_one_image_per_class(tmp_path: Path) -> None:
    """With one image per class and a fraction of one half, half of the images are for testing."""
    write_folder(tmp_path, files_of(tuple(f"class{index:02d}" for index in range(20)), 1))
    data = ImageFolder(str(tmp_path), num_workers=0, test_fraction=0.5)
    assert data.num_classes == 20
    train, test = labels_by_image(data, "train"), labels_by_image(data, "test")
    assert len(train) == len(test) == 10
    assert sorted([*train.values(), *test.values()]) == list(range(20))


def test_imagenet_labels_of_any_folder(tmp_path: Path) -> None:
    """Folders named by WordNet ids get the labels of the 1000 classes, though most of those are absent."""
    files = files_of(WNIDS, 2)
    write_folder(tmp_path, files)
    data = ImageFolder(str(tmp_path), num_workers=0, classes="imagenet-1k", test_fraction=0.5)
    assert data.num_classes == 1000
    assert not data.trains_from_scratch
    seen = {**labels_by_image(data, "train"), **labels_by_image(data, "test")}
    names = ImageNetInfo("imagenet-1k").label_names()
    expected = {Image.open(io.BytesIO(content)).tobytes(): names.index(name[:9]) for name, content in files.items()}
    assert seen == expected
    assert set(seen.values()) == {0, 2, 999}


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        ({}, {}, "it has no folders with images"),
        ({"1.png": b""}, {}, "give one folder per class"),
        ({"a/readme.txt": b""}, {}, "it has no folders with images"),
        ({"cat/1.png": b"", "cat/2.png": b""}, {"classes": "imagenet-1k"}, "the folders cat are not among the WordNet"),
        ({"train/a/1.png": b"", "test/b/2.png": b""}, {}, "the folders b are not among the class folders of the train"),
        ({"train/a/1.png": b""}, {}, "it has no images in a folder test or val"),
        ({"a/1.png": b""}, {}, "at least two"),
    ],
)
def test_folders_that_do_not_serve(
    files: dict[str, bytes], settings: dict[str, object], message: str, tmp_path: Path
) -> None:
    """Every way in which a folder is not what it should be has its own sentence."""
    data = ImageFolder(str(write_folder(tmp_path, files)), num_workers=0, **settings)  # type: ignore[arg-type]
    data.configure(32, HALF, HALF, "bilinear", 1.0)
    with pytest.raises(ValueError, match=message):
        data.setup()


def test_classes_that_are_not_known() -> None:
    """A class order other than the known ones is refused."""
    with pytest.raises(ValueError, match=r"data\.classes=imagenet-9k: choose null .* or imagenet-1k"):
        ImageFolder("somewhere", classes="imagenet-9k")


@pytest.mark.parametrize("data", [Cifar10(None), ImageFolder(None), ImageNet(None)], ids=lambda data: data.name)
def test_root_that_is_not_set(data: ImageData) -> None:
    """Data that must be brought along say that their root is not set."""
    data.configure(32, HALF, HALF, "bilinear", 1.0)
    with pytest.raises(ValueError, match=r"data\.root is not set: give .*data\.root=PATH"):
        data.setup()


# ------------------------------------------------------------------------------------------ imagenet


def test_imagenet_layout(tmp_path: Path) -> None:
    """The folders train and val have the labels of the 1000 classes, and such data are not trained on from scratch."""
    data = make("imagenet", tmp_path)
    assert (data.num_classes, data.trains_from_scratch) == (1000, False)
    assert Counter(labels_by_image(data, "train").values()) == {0: 5, 2: 5, 999: 5}
    assert len(all_of(data.test_dataloader())[1]) == 9


def test_imagenet_without_its_layout(tmp_path: Path) -> None:
    """Class folders without train and val are refused with the data set that takes them."""
    write_folder(tmp_path, files_of(WNIDS, 1))
    with pytest.raises(ValueError, match=r"choose data=image_folder with data\.classes=imagenet-1k"):
        ImageNet(str(tmp_path)).samples("test")


def test_imagenet_to_score_only(tmp_path: Path) -> None:
    """With val alone a network can be scored; calibrating it says that train is missing."""
    write_folder(tmp_path / "val", files_of(WNIDS, 1))
    data = ImageNet(str(tmp_path), num_workers=0)
    data.configure(32, HALF, HALF, "bilinear", 1.0)
    data.setup("test")
    assert len(all_of(data.test_dataloader())[0]) == 3
    with pytest.raises(ValueError, match="no images in a folder train"):
        data.calibration_dataloader(1, seed=0)


# ------------------------------------------------------------------------------------------ cifar10


def test_cifar10_from_tar_files(tmp_path: Path) -> None:
    """Images keep their pixels, and labels follow the alphabetical order of the classes."""
    data = make("cifar10", tmp_path)
    samples = data.samples("train")
    stored = list_images(tmp_path / "train.tar")
    assert len(samples) == 40  # type: ignore[arg-type]
    for index, image in enumerate(stored):
        pixels, label = samples[index]
        assert torch.equal(pixels, functional.pil_to_tensor(read(image)))
        assert CLASSES[label] == image.name.split("/")[0]


def write_original_cifar10(root: Path) -> dict[str, list[list[str]]]:
    """Small files in the layout of the original CIFAR-10; their names and digests, as torchvision wants them."""
    folder = root / CIFAR10.base_folder
    folder.mkdir()
    lists: dict[str, list[list[str]]] = {"train_list": [], "test_list": []}
    names = [(f"data_batch_{index}", "train_list") for index in range(1, 6)] + [("test_batch", "test_list")]
    for seed, (name, kind) in enumerate(names):
        pixels = np.random.default_rng(seed).integers(0, 256, (4, 3072), dtype=np.uint8)
        # The format of the original files, which torchvision reads after checking their digests.
        content = pickle.dumps({"data": pixels, "labels": [seed, 9, 0, 1]})
        (folder / name).write_bytes(content)
        lists[kind].append([name, hashlib.md5(content).hexdigest()])
    meta = pickle.dumps({"label_names": list(CLASSES)})
    (folder / "batches.meta").write_bytes(meta)
    return {**lists, "meta": [["batches.meta", hashlib.md5(meta).hexdigest()]]}


def test_cifar10_from_the_original_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original python files give their images channel by channel, and damaged ones are refused."""
    lists = write_original_cifar10(tmp_path)
    data = Cifar10(str(tmp_path))
    with pytest.raises(ValueError, match="cifar-10-batches-py are missing or damaged"):
        data.samples("test")
    monkeypatch.setattr(CIFAR10, "train_list", lists["train_list"])
    monkeypatch.setattr(CIFAR10, "test_list", lists["test_list"])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": lists["meta"][0][1]}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    assert len(data.samples("train")) == 20  # type: ignore[arg-type]
    pixels, label = data.samples("test")[0]
    expected = np.random.default_rng(5).integers(0, 256, (4, 3072), dtype=np.uint8)[0].reshape(3, 32, 32)
    assert torch.equal(pixels, torch.from_numpy(expected))
    assert label == 5


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "it has neither train.tar nor cifar-10-batches-py"),
        ({}, "holds no images"),
        ({"wolf/1.png": png(0)}, "no class of CIFAR-10: wolf"),
        ({"cat/1.png": png(0, size=64)}, "not 32 x 32"),
        ({"cat/1.png": png(0), "dog/1.png": png(0, size=64)}, "not 32 x 32"),
    ],
)
def test_cifar10_files_that_do_not_serve(files: dict[str, bytes] | None, message: str, tmp_path: Path) -> None:
    """Every way in which the tar files are not CIFAR-10 has its own sentence."""
    if files is not None:
        write_tar(tmp_path / "train.tar", files)
    with pytest.raises(ValueError, match=message):
        Cifar10(str(tmp_path)).samples("train")


# ------------------------------------------------------------------------------------------ real data


@pytest.mark.realdata
def test_real_cifar10(data_dir: Path) -> None:
    """The JPEG copies have 20,000 and 5,000 images, as many of each class."""
    data = Cifar10(str(data_dir / "cifar10"))
    for part, num_each in (("train", 2000), ("test", 500)):
        labels = data.samples(part).tensors[1]  # type: ignore[arg-type,attr-defined]
        assert labels.bincount().tolist() == [num_each] * 10


@pytest.mark.realdata
def test_real_imagenet_sample(data_dir: Path) -> None:
    """The labels of the ImageNet images are those of the list that came with them."""
    folder = data_dir / "imagenet_sample"
    data = ImageFolder(str(folder), num_workers=0, classes="imagenet-1k", test_fraction=0.5)
    with open(folder / "labels.csv") as file:
        expected = {row["file"]: int(row["imagenet_1k_index"]) for row in csv.DictReader(file)}
    found = {}
    for part in ("train", "test"):
        samples = data.samples(part)  # type: ignore[arg-type]
        found.update({image.name: label for image, label in zip(samples.images, samples.labels, strict=True)})
        assert len(samples) == 250
    assert found == expected


# ------------------------------------------------------------------------------------------ images as they come


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def read_one(path: Path) -> Image.Image:
    return read(StoredImage(path.name, str(path.parent)))


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits_are_scaled(mode: str, tmp_path: Path) -> None:
    """A grey ramp of 16 bits is the ramp of 8 bits, not white from 255 on."""
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    image = Image.fromarray(ramp if mode == "I;16" else ramp.astype(np.int32))
    assert image.mode == mode
    found = np.asarray(read_one(saved(tmp_path / "ramp.tiff", image)))
    assert np.abs(found[..., 0].astype(int) - ramp // 257).max() <= 1
    assert (found[..., 0] == found[..., 2]).all()


def test_images_that_are_refused(tmp_path: Path) -> None:
    """Floating numbers, more than sixteen bits, half a file and bombs are refused by name."""
    saved(tmp_path / "float.tiff", Image.fromarray(np.ones((4, 4), np.float32)))
    saved(tmp_path / "deep.tiff", Image.fromarray(np.full((4, 4), 1 << 20, np.int32)))
    (tmp_path / "half.png").write_bytes(png(0)[:60])
    huge = io.BytesIO()
    Image.new("1", (20000, 20000)).save(huge, "PNG")
    (tmp_path / "bomb.png").write_bytes(huge.getvalue())
    for name, said in (
        ("float.tiff", "floating"),
        ("deep.tiff", "sixteen bits"),
        ("half.png", ""),
        ("bomb.png", "bomb"),
    ):
        with pytest.raises(ValueError, match=rf"{name} in .* is not a readable image: .*{said}"):
            read_one(tmp_path / name)


def test_photographs_are_turned_as_the_camera_was(tmp_path: Path) -> None:
    """Orientation 6 of a photograph says: show it turned by 90 degrees."""
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    found = np.asarray(read_one(saved(tmp_path / "photo.png", Image.fromarray(pixels), exif=exif)))
    assert found.shape == (8, 4, 3)
    assert found[:4].min() == 255
    assert found[4:].max() == 0


def test_links_in_a_circle_and_empty_classes(tmp_path: Path) -> None:
    """A link to a folder around it is not followed for ever; class folders without images are counted and named."""
    write_folder(tmp_path, files_of(("a", "b"), 3))
    (tmp_path / "a" / "around").symlink_to(tmp_path, target_is_directory=True)
    data = ImageFolder(str(tmp_path), num_workers=0)
    assert data.class_names() == ("a", "b")
    for name in ("c", "d"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=r"2 class folders hold no images \(c, d\)"):
        ImageFolder(str(tmp_path), num_workers=0).class_names()
    for name in ("a", "c"):
        write_folder(tmp_path / "parts" / "train" / name, files_of(("x",), 1) if name == "a" else {"note.txt": b""})
        write_folder(tmp_path / "parts" / "test" / name, files_of(("x",), 1))
    with pytest.raises(ValueError, match=r"1 class folders hold no images \(train/c\)"):
        ImageFolder(str(tmp_path / "parts"), num_workers=0).class_names()


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    """Named by the option and their places, before anything is read; links to images are images."""
    write_folder(tmp_path, files_of(("a", "b"), 2))
    (tmp_path / "a" / "there.png").symlink_to(next((tmp_path / "b").iterdir()))
    assert len(list_images(tmp_path)) == 5
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"^data\.root=.*: 1 link leads nowhere \(a/gone\.png\); remove"):
        list_images(tmp_path)


def test_one_class_is_refused_before_a_network_is_built(tmp_path: Path) -> None:
    """Folders by the option; other data sets by their name."""
    write_folder(tmp_path, files_of(("cat",), 2))
    with pytest.raises(
        ValueError, match=r"^data\.root=.*: cat is the only class folder with images; a classifier needs"
    ):
        _ = ImageFolder(str(tmp_path), num_workers=0).requirements
    with pytest.raises(ValueError, match=r"^data set own: num_classes=1; a classifier needs 2 or more"):
        _ = Own(classes=1).requirements


def test_images_of_formats_that_are_not_read_are_counted(tmp_path: Path) -> None:
    """Lists beside the images are not among them."""
    others = {"a/1.gif": b"1", "b/2.GIF": b"2", "a/3.heic": b"3", "a/readme.txt": b"4"}
    write_folder(tmp_path, {**files_of(("a", "b"), 2), **others})
    (said,) = doubts_of(ImageFolder(str(tmp_path), num_workers=0))
    assert said.startswith("images of other formats are left out (2 .gif, 1 .heic); .jpg .jpeg .png ")


class Unread(Dataset[tuple[torch.Tensor, float]]):
    """Of which nothing is known but by reading."""

    def __init__(self, pairs: list[tuple[torch.Tensor, float]]) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, float]:
        return self._pairs[index]


class Listed(Unread):
    """Of which a list beside the samples, under one of the usual names, says the labels."""

    def __init__(self, pairs: list[tuple[torch.Tensor, float]], name: str = "targets", said: Any = None) -> None:
        super().__init__(pairs)
        setattr(self, name, [label for _, label in pairs] if said is None else said)


class Own(ImageData):
    """A data set as another package may bring it; ``wrap`` is what holds its samples."""

    def __init__(
        self,
        classes: int = 4,
        test: int = 6,
        wrong: tuple[str, int, float] = ("", 0, 0.0),
        wrap: Callable[[list[tuple[torch.Tensor, float]]], Any] = Unread,
    ) -> None:
        super().__init__(name="own", batch_size=4, num_workers=0, image_size=8)
        self._classes, self._test, self._wrong, self._wrap = classes, test, wrong, wrap

    @property
    def num_classes(self) -> int:
        return self._classes

    def samples(self, part: str) -> Any:
        found: list[tuple[torch.Tensor, float]]
        found = [(torch.zeros(3, 8, 8), index % 4) for index in range(12 if part == "train" else self._test)]
        where, index, value = self._wrong
        if where == part:
            found[index] = (torch.full((3, 8, 8), value), index % 4) if value != value else (found[0][0], value)
        return self._wrap(found)

    def transform(self, image_format: ImageFormat, *, training: bool) -> Callable[[Any], torch.Tensor]:
        return lambda image: image


NAN = float("nan")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("train", 3, 4), "training part: sample 3 (counted from 0) has label 4; its num_classes=4 allows 0 to 3"),
        (("test", 2, -1), "test part: sample 2 (counted from 0) has label -1; its num_classes=4 allows 0 to 3"),
        (("test", 3, 1.5), "test part: sample 3 (counted from 0) has label 1.5; its num_classes=4 allows 0 to 3"),
        (("test", 4, NAN), "test part: sample 4 (counted from 0) holds NaN or infinite values as the network gets it"),
        (("train", 7, NAN), "training part: sample 7 (counted from 0) holds NaN or infinite values"),
    ],
)
def test_samples_that_cannot_be_learned_from_are_named(wrong: tuple[str, int, float], message: str) -> None:
    """By data set, part and number, where they are read."""
    data = Own(wrong=wrong)
    data.configure(8, HALF, HALF, "bilinear", 1.0)
    data.look_at_ends()
    loaders = (partial(data.calibration_dataloader, 12, 0), data.val_dataloader, data.test_dataloader)
    with pytest.raises(ValueError, match=f"^data set own, {re.escape(message)}"):
        _ = [list(loader()) for loader in loaders]


def test_the_ends_of_parts_are_looked_at_before_any_work() -> None:
    """A wrong label or NaN at the end, and a part that is empty, cost nobody a training."""
    for data, message in (
        (Own(wrong=("test", 5, NAN)), "test part: sample 5 "),
        (Own(wrong=("train", 0, 9)), "training part: sample 0 "),
        (Own(test=0), "test part: it holds no sample; a run needs"),
    ):
        data.configure(8, HALF, HALF, "bilinear", 1.0)
        with pytest.raises(ValueError, match=f"^data set own, {message}"):
            data.look_at_ends()


@pytest.mark.parametrize(
    "wrap",
    [
        list,
        Listed,
        partial(Listed, name="labels"),
        lambda pairs: TensorDataset(torch.stack([image for image, _ in pairs]), torch.tensor([at for _, at in pairs])),
        lambda pairs: Subset(pairs, range(len(pairs))),
        lambda pairs: ConcatDataset([pairs[:2], Listed(pairs[2:])]),
    ],
)
@pytest.mark.parametrize("wrong", [("train", 5, 4), ("test", 3, -1)])
def test_labels_that_are_known_are_looked_at_before_any_work(wrap: Any, wrong: tuple[str, int, float]) -> None:
    """In the middle of a part, too."""
    data = Own(wrong=wrong, wrap=wrap)
    data.configure(8, HALF, HALF, "bilinear", 1.0)
    with pytest.raises(ValueError, match=rf" part: sample {wrong[1]} \(counted from 0\) has label {wrong[2]}; "):
        data.look_at_ends()


@pytest.mark.parametrize("said", [["a", "b", "c"] * 4, list(range(12)), [0], 7])
def test_what_only_looks_like_labels_is_no_reason_to_refuse(said: Any) -> None:
    """Names of classes, or numbers that a transform turns into others: the samples themselves are right."""
    data = Own(wrap=partial(Listed, said=said))
    data.configure(8, HALF, HALF, "bilinear", 1.0)
    data.look_at_ends()


def test_a_label_of_several_numbers_is_named() -> None:
    """As any other that is of no class, not by torch."""
    data = Own(wrap=lambda pairs: [*pairs[:1], (pairs[0][0], torch.tensor([1, 2])), *pairs[2:]])
    data.configure(8, HALF, HALF, "bilinear", 1.0)
    with pytest.raises(ValueError, match=r"sample 1 \(counted from 0\) has label tensor\(\[1, 2\]\); its num_"):
        data.look_at_ends()
