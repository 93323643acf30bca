"""Which small networks do several test files prune?"""

import torch
from torch import Tensor, nn

from tests.audit import randomise

__all__ = ["TinyAttention", "TinyCNN", "TinyLanguage", "attention", "cnn", "images", "language", "tokens", "words"]


class TinyCNN(nn.Module):
    """Stem, a residual block with a depthwise layer and a gate, and a head behind a flatten: [N, 3, 8, 8] -> [N, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.expand, self.depth = nn.Conv2d(12, 24, 1), nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.squeeze, self.excite = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.project, self.wide, self.head = nn.Conv2d(24, 12, 1), nn.Conv2d(12, 16, 3, stride=2), nn.Linear(144, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()  # [N, 12, 8, 8]
        y = self.depth(self.expand(x).relu()).relu()  # [N, 24, 8, 8]
        y = y * self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        x = self.wide(x + self.project(y)).relu()  # [N, 16, 3, 3]
        return self.head(x.flatten(1))


class TinyAttention(nn.Module):
    """Two transformer blocks with residual streams: [N, 7, 16] -> [N, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(16, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens.mean(1))


class Block(nn.Module):
    """Single-head attention and a hidden layer, each beside the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 40), nn.Linear(40, 16)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm(x)).chunk(3, dim=-1)
        x = x + self.out(nn.functional.scaled_dot_product_attention(query, key, value))
        return x + self.down(nn.functional.gelu(self.up(x)))


class TinyLanguage(nn.Module):
    """A causal language model with positions and a tied head: tokens [N, T <= 16] -> logits [N, T, 23]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place, self.norm = nn.Embedding(23, 12), nn.Embedding(16, 12), nn.LayerNorm(12)
        self.up, self.down, self.head = nn.Linear(12, 32), nn.Linear(32, 12), nn.Linear(12, 23, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words) + self.place(torch.arange(words.shape[1], device=words.device))
        past = x.cumsum(1) / torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]  # sees nothing that follows
        return self.head(x + self.down(self.up(self.norm(past)).relu()))


def cnn() -> nn.Module:
    torch.manual_seed(0)
    return randomise(TinyCNN())


def attention() -> nn.Module:
    torch.manual_seed(0)
    return randomise(TinyAttention())


def images(count: int = 48, seed: int = 0) -> Tensor:
    """Smooth noise: neighbouring pixels and channels explain each other in part."""
    noise = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return noise + 0.5 * noise.roll(1, 3) + 0.3 * noise.roll(1, 1)


def tokens(count: int = 48, seed: int = 0) -> Tensor:
    return torch.randn(count, 7, 16, generator=torch.Generator().manual_seed(seed))


def language() -> nn.Module:
    torch.manual_seed(0)
    return randomise(TinyLanguage())


def words(count: int = 48, seed: int = 0) -> Tensor:
    return torch.randint(0, 23, (count, 8), generator=torch.Generator().manual_seed(seed))
