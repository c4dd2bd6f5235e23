"""Conversion needs NumPy and nothing heavy."""

import subprocess
import sys


def test_nothing_heavy_is_imported():
    code = (
        "import sys, metro_jax.convert as c; [getattr(c, name) for name in c.__all__]; "
        "print(sorted({'torch', 'tensorflow', 'seqio', 'clu', 't5x', 'jax', 'flax'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
