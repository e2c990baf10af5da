"""`python -m forgefront` is the command line."""

from .search.cli import main

main()
