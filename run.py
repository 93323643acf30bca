"""How is a run started from a checkout?  ``python run.py model=resnet50 prune.target_var=0.95``; see ``--help``."""

from snp.run.command import run

if __name__ == "__main__":
    run()
