"""Run every benchmark of this folder, one after the other; exit code 1 if one of them missed its target."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run all `bench_*.py`."""
    failed = [
        script.stem
        for script in sorted(Path(__file__).parent.glob("bench_*.py"))
        if subprocess.run([sys.executable, "-m", f"benchmarks.{script.stem}"], check=False).returncode
    ]
    if failed:
        print(f"missed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
