"""How is a run started?  ``python run.py model=resnet50 prune.target_var=0.95``; ``--help`` lists all options."""

import secrets

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from snp.run.errors import command_line, guarded

OmegaConf.register_new_resolver("random_name", lambda: secrets.token_hex(3), use_cache=True, replace=True)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
@guarded
def main(config: DictConfig) -> float | None:
    """Run the composed configuration; the root's target is ``snp.run.pipeline.run``."""
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    is_multirun = HydraConfig.get().mode == RunMode.MULTIRUN
    found = hydra.utils.instantiate(config)(config=plain, is_multirun=is_multirun)
    return found.get("pruned/acc1_percent", found.get("pruned/perplexity"))


if __name__ == "__main__":
    with command_line(HydraException):
        main()
