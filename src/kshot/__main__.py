"""python -m kshot, and torchrun -m kshot."""

from kshot.cli import main

main()
