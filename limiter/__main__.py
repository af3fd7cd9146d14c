"""`python -m limiter` is the command line."""

from limiter.cli.main import main

main()
