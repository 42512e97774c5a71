"""`python -m pipeline` is `pagepack`."""

from pipeline.cli import main

main()
