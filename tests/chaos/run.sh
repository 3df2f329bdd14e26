#!/usr/bin/env bash
# Run a command of the chaos tests: in a mount namespace of its own where that is allowed, so that nothing stays mounted.
set -euo pipefail

export PYTHONPATH=tools:tests:tests/stress
if unshare --mount true 2>/dev/null; then
    bash tools/need.sh mkfs.ext4=e2fsprogs
    HOLDFAST_MAY_MOUNT=1 exec unshare --mount "$@"
fi
exec "$@"
