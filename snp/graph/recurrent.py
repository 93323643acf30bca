"""What do recurrent layers do to units?  What they read can be cut; their own hidden units stay."""

from __future__ import annotations

__all__: list[str] = []
