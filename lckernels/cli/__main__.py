"""`python -m lckernels.cli`."""

from lckernels.cli.main import main

main()
