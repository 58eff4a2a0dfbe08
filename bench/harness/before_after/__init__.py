"""Times two checkouts of lckernels in turns: `python -m bench.harness.before_after --base PATH`."""
