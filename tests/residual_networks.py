"""Which small networks have blocks that can be taken out as a whole?"""

import torch
from torch import Tensor, nn

__all__ = ["Attending", "Basic", "Chain", "Scaled", "chain", "vectors"]


class Basic(nn.Module):
    """Two convolutions beside the stream, a rectifier behind the sum: [N, C, 6, 6] -> the same."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.second, self.last = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.last(self.second(self.norm(self.first(x)).relu()))).relu()


class Attending(nn.Module):
    """Attention and a hidden layer, each beside the stream: [N, T, 8] -> the same."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm(x)).chunk(3, dim=-1)
        x = x + self.out(nn.functional.scaled_dot_product_attention(query, key, value))
        return x + self.down(nn.functional.gelu(self.up(x)))


class Scaled(nn.Module):
    """A hidden layer times a scale per channel beside the stream, in a tuple: [N, 8] -> ([N, 8], None)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.gamma = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor, *, unused: int = 0) -> tuple[Tensor, None]:
        return x + self.gamma * self.down(self.up(x).relu()), None


class Chain(nn.Module):
    """A layer in front, blocks in a list, a head that reads the mean over positions."""

    def __init__(self, front: nn.Module, blocks: list[nn.Module], width: int = 8) -> None:
        super().__init__()
        self.front, self.blocks, self.head = front, nn.ModuleList(blocks), nn.Linear(width, 5)
        self.gives_tuples = isinstance(blocks[0], Scaled)

    def forward(self, x: Tensor) -> Tensor:
        x = self.front(x)
        for block in self.blocks:
            x = block(x, unused=1)[0] if self.gives_tuples else block(x)
        x = x.flatten(2).mean(2) if x.ndim == 4 else x
        return self.head(x.mean(1) if x.ndim == 3 else x)


def chain(kind: type[nn.Module], num_blocks: int = 3, seed: int = 0) -> Chain:
    """Blocks of one kind with random weights and statistics, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        of_maps = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        model = Chain(of_maps if kind is Basic else nn.Linear(8, 8), [kind() for _ in range(num_blocks)])
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
                module.running_mean.normal_(std=0.2)
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight.data *= 2
    return model.eval()


def vectors(kind: type[nn.Module], count: int, seed: int = 1) -> Tensor:
    """Inputs of a chain."""
    generator = torch.Generator().manual_seed(seed)
    shape = {Basic: (3, 6, 6), Attending: (7, 8), Scaled: (8,)}[kind]
    return torch.randn(count, *shape, generator=generator)
