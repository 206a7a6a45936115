"""`python -m learned_opt` is `learned-opt`."""

from learned_opt.cli import run

if __name__ == "__main__":
    run()
