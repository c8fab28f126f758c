"""`python -m lrsegformer`, and `accelerate launch -m lrsegformer`: the same as the command `lrsegformer`."""

from lrsegformer.cli.main import main

if __name__ == "__main__":
    main()
