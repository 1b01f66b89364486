"""Every benchmark that this machine can run: python -m benchmarks"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

for script in sorted(Path(__file__).parent.glob("*.py")):
    if script.name != Path(__file__).name and "if __name__ ==" in script.read_text(encoding="utf-8"):
        print(f"== benchmarks.{script.stem}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{script.stem}"], check=True)
