"""`python -m lckernels.cli`."""

from lckernels.cli import main

main()
