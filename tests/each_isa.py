"""Runs pytest with the given arguments on each instruction set below the machine's best one.

python tests/each_isa.py -q tests/ops/test_windowed_attention.py
"""

import os
import subprocess
import sys

from lckernels.backends.registry import ISAS


def main() -> int:
    try:
        from lckernels import _host
    except ImportError:
        print("instruction sets: skipped, lckernels was built without a C++ compiler")
        return 0
    best = _host.detected_isa()
    print(f"{best}: skipped, the tests without LCKERNELS run on it")
    for isa in ISAS[ISAS.index(best) + 1 :]:
        print(f"{isa}: skipped, this processor goes up to {best}")
    for isa in ISAS[: ISAS.index(best)]:
        print(f"{isa}:", flush=True)
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "LCKERNELS": f"isa={isa}"}
        status = subprocess.run([sys.executable, "-m", "pytest", *sys.argv[1:]], env=environment).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
