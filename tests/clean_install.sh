#!/usr/bin/env bash
# Build wheel and sdist, install the wheel's core alone into an empty environment, and use it there:
# an import that nothing declares, or a file the wheel lacks, fails here.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

"$PYTHON" -m build --quiet --outdir "$place/dist" . > "$place/build.log" 2>&1 || { cat "$place/build.log"; exit 1; }
ls "$place"/dist/*.whl "$place"/dist/*.tar.gz > /dev/null
"$PYTHON" -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$CONSTRAINTS" "$place"/dist/*.whl
"$place/venv/bin/python" -m pip check
cd "$place" # not the checkout: the wheel is what is tested

bin="$place/venv/bin"
"$bin/saestore" --help > /dev/null
"$bin/saestore" ls --lake "$place/empty" > /dev/null
"$bin/saestore" config show generate > /dev/null
"$bin/python" - <<'PY'
import time, subprocess, sys, pathlib
import saestore, saestore_schemas, saestore_cli
assert "torch" not in sys.modules
saestore.open_lake("empty").sql("SELECT count(*) FROM features")
from saestore.interpret.explainers import explainer_of
from saestore_schemas.interpret import QuantileExplainer
assert "explanation" in explainer_of(QuantileExplainer()).instructions
assert "torch" not in sys.modules
program = pathlib.Path(sys.executable).with_name("saestore")
times = []
for _ in range(5):
    start = time.perf_counter()
    subprocess.run([program, "--help"], check=True, stdout=subprocess.DEVNULL)
    times.append(time.perf_counter() - start)
print(f"clean install works; saestore --help takes {min(times):.2f} s")
PY
if "$bin/saestore" hookpoints nowhere 2> "$place/error"; then echo "expected an error" >&2; exit 1; fi
grep -q "saestore\[model\]" "$place/error" || { cat "$place/error" >&2; exit 1; }
