"""Where on this machine is a weight file of the Hugging Face hub, and can it be fetched without waiting for a timeout?

The hub's own client retries for about 46 s when there is no network. So we look into its cache first (no network at
all), then ask once, briefly, whether the hub answers, and only then let the client download.
"""

import threading
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import get_session  # type: ignore[attr-defined]  # there in every version, listed in few

FILE_NAME = "model.safetensors"
PATIENCE_SECONDS = 3.0


class WeightsNotFoundError(ValueError):
    """The pretrained weights can be had neither from the cache nor from the hub; the message says why."""


def fetch(repository: str) -> Path:
    """Path of `model.safetensors` of a hub repository (e.g. `timm/resnet50.a1_in1k`), downloaded if it must be.

    Returns within a few seconds when the file is cached or the hub cannot be reached.

    Raises:
        WeightsNotFoundError: not cached, and the hub is off, out of reach, or refuses the file.
    """
    cached = huggingface_hub.try_to_load_from_cache(repository, FILE_NAME)
    if isinstance(cached, str):
        return Path(cached)
    missing = f"{repository} is not in the cache ({constants.HF_HUB_CACHE})"
    if constants.HF_HUB_OFFLINE:
        raise WeightsNotFoundError(f"{missing} and HF_HUB_OFFLINE is set")
    if not answers(constants.ENDPOINT):
        raise WeightsNotFoundError(f"{missing} and {constants.ENDPOINT} does not answer")
    try:
        return Path(huggingface_hub.hf_hub_download(repository, FILE_NAME))
    except (OSError, HfHubHTTPError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsNotFoundError(f"{repository} could not be downloaded: {first_line}") from error


def answers(endpoint: str, patience_seconds: float = PATIENCE_SECONDS) -> bool:
    """Whether a server answers at `endpoint` (a URL) within `patience_seconds`, whatever it answers.

    It asks through the hub's own session, so that proxies and certificates are those of the download to come.
    """
    answered = threading.Event()

    def ask() -> None:
        try:
            get_session().head(endpoint, timeout=patience_seconds)
        except Exception:  # the session's library differs between versions of the hub client; any failure is a "no"
            return
        answered.set()

    # Looking up a name has no timeout of its own, hence a thread that nobody waits for to the end.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience_seconds)
    return answered.is_set()
