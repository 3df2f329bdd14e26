#!/usr/bin/env bash
# Prove that the sdist and the wheel in dist hold what they should, install, and lock: tools/check_wheel.sh BIN
# BIN is the folder of the virtual environment's programs.
set -euo pipefail

bin=$1
root=$PWD
wheel=$(echo dist/*.whl)
sdist=$(echo dist/*.tar.gz)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() {
    echo "check-wheel: $*" >&2
    exit 1
}

# Without its compiled module the package would be built as one for every platform, and fail when imported.
contents=$("$bin/python" -m zipfile --list "$wheel" | awk 'NR > 1 { print $1 }')
[[ $(grep -c '^holdfast/_native\.[a-z0-9.-]*so$' <<<"$contents") -eq 1 ]] || fail "$wheel has no compiled module"
for file in holdfast/py.typed holdfast/_native.pyi; do
    grep -qx "$file" <<<"$contents" || fail "$wheel lacks $file"
done
[[ $wheel == *-cp310-abi3-* ]] || fail "$wheel is not tagged cp310-abi3"
strays=$(grep -vE '^holdfast(/|-[^/]*\.dist-info/)' <<<"$contents") && fail "$wheel also holds:" "$strays"

# The sdist is built on systems we never see: it needs both sides of the core.
contents=$(tar --list --file "$sdist" | cut -d/ -f2-)
while read -r file; do
    grep -qx "$file" <<<"$contents" || fail "$sdist lacks $file"
done < <(find csrc -name '*.[ch]'; find src -name '*.py*' -not -path '*/__pycache__/*'; echo setup.py)

"$bin/auditwheel" show "$wheel"
"$bin/abi3audit" --strict "$wheel"

for package in "$wheel" "$sdist"; do
    venv=$scratch/${package##*.}
    "$bin/python" -m venv --without-pip "$venv"
    "$bin/python" -m pip --python "$venv/bin/python" install --quiet "$package"
    (cd "$scratch" && "$venv/bin/python" "$root/tests/smoke.py") # not where the sources could be imported
done
