"""Which samples are for training, which for validation, testing, and calibration, given nothing but a seed?"""

import torch


def stratified(labels: list[int], test_fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Split samples so that every class is divided as evenly as whole samples allow.

    Samples are laid out class by class, classes and samples in random order, and every 1/test_fraction-th one is taken
    for testing. So each class of n samples has n * test_fraction of them in the test part, to within one sample, and
    classes of a single sample fall on either side at random.

    Args:
        labels: the class of every sample.
        test_fraction: part of the samples to test on, in (0, 1).
        seed: same seed, same split.

    Returns:
        Indices of the training and of the test samples, both sorted, disjoint, neither empty.

    Raises:
        ValueError: a fraction outside (0, 1), or fewer than two samples.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"data.test_fraction={test_fraction}: choose a number between 0 and 1, both excluded")
    if len(labels) < 2:
        raise ValueError(f"{len(labels)} samples cannot be split into a training and a test part; give at least two")
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator).tolist()
    class_ranks = torch.randperm(max(labels) + 1, generator=generator).tolist()
    layout = sorted(shuffled, key=lambda index: class_ranks[labels[index]])
    num_test = min(max(round(len(labels) * test_fraction), 1), len(labels) - 1)
    is_test = [(k + 1) * num_test // len(labels) > k * num_test // len(labels) for k in range(len(labels))]
    train = sorted(index for index, test in zip(layout, is_test, strict=True) if not test)
    test = sorted(index for index, test in zip(layout, is_test, strict=True) if test)
    return train, test


_MOST_APART = 5000
_SPLIT_SEED = 0


def set_apart(num_samples: int, fraction: float) -> tuple[list[int], list[int]]:
    """Divide training samples into those to train on and a few for validation, always the same way.

    Args:
        num_samples: how many there are.
        fraction: share to set apart, in [0, 1); at most 5,000 samples, since every epoch looks at them.

    Returns:
        Indices to train on and indices set apart, both sorted and disjoint; a single sample is not set apart.
    """
    num_apart = min(round(num_samples * fraction), _MOST_APART, max(num_samples - 1, 0))
    if num_apart == 0:
        return list(range(num_samples)), []
    order = torch.randperm(num_samples, generator=torch.Generator().manual_seed(_SPLIT_SEED)).tolist()
    return sorted(order[num_apart:]), sorted(order[:num_apart])


def subset(num_available: int, num_samples: int, seed: int) -> list[int]:
    """Indices of a fixed random choice of samples, in random order so that any run of them mixes the classes.

    Args:
        num_available: how many samples there are.
        num_samples: how many to choose, from 1; at most as many as there are.
        seed: same seed, same choice; a larger choice begins with the smaller one.

    Raises:
        ValueError: fewer than one sample asked for, or none there.
    """
    if num_samples < 1:
        raise ValueError(f"calibration.samples={num_samples}: the training part is empty, or none are asked for")
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(num_available, generator=generator)[:num_samples].tolist()
