"""`python -m prefopt`."""

from prefopt.cli.app import main

main()
