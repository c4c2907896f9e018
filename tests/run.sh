#!/usr/bin/env bash
# Everything that has to hold before a change goes in: tests/run.sh [--quick]
#
# Prepares the machine (setup.sh, vm/setup.sh), builds the program, checks format and lints, makes the real images, runs the unit
# and end-to-end tests, the case suite when it lies beside the project, and each fuzz target for a moment when
# cargo-fuzz and a nightly compiler are there. Run it as root for the tests that mount; without root they are skipped.
# Skipped tests are counted and listed at the end.
#
#   --quick              unit tests and lints only
#   MKIMG_TEST_LARGE=1   also a layer of 1 GiB (on by default when there are 5 GiB of free disk)
#   MKIMG_FUZZ_SECONDS   time for each fuzz target (default 4)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
quick=0
case ${1:-} in
    '') ;;
    --quick) quick=1 ;;
    *)
        echo "usage: tests/run.sh [--quick]" >&2
        exit 2
        ;;
esac

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
export MKIMG_TOOLS=${MKIMG_TOOLS:-$PWD/target/tools} MKIMG_IMAGES=${MKIMG_IMAGES:-$PWD/target/images}
# The static program: the virtual machines have nothing else.
export MKIMG_BIN=$CARGO_TARGET_DIR/x86_64-unknown-linux-gnu/release/mkimg
# The unit tests of the kernel interfaces look for mkfs.erofs there.
export PATH=$MKIMG_TOOLS/bin:$PATH
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
mkdir -p "$CARGO_TARGET_DIR"
export MKIMG_SKIPPED=$CARGO_TARGET_DIR/skipped.txt
: >"$MKIMG_SKIPPED"
log=$CARGO_TARGET_DIR/tests.log
: >"$log"

step() { # step NAME COMMAND...: runs it and says how long it took
    local name=$1 began=$SECONDS
    shift
    printf -- '---- %s\n' "$name"
    if ! "$@" 2>&1 | tee -a "$log"; then
        printf -- '---- %s: FAILED after %d s\n' "$name" "$((SECONDS - began))" >&2
        exit 1
    fi
    printf -- '---- %s: %d s\n' "$name" "$((SECONDS - began))"
}

if [ "$quick" = 0 ]; then
    step setup tests/setup.sh
    step 'virtual machines' tests/vm/setup.sh
fi
step format cargo fmt --all --check
step lints cargo clippy --workspace --all-targets --locked -- -D warnings
step docs env RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items --locked
if [ "$quick" = 1 ]; then
    step 'unit tests' cargo test --workspace --exclude mkimg-tests --locked
    exit 0
fi
step build cargo static --workspace --bins
step 'unit tests' cargo test --workspace --exclude mkimg-tests --locked
if [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; then
    step images tests/images.sh "$MKIMG_IMAGES"
fi
if [ -z "${MKIMG_TEST_LARGE:-}" ] && [ "$(df --output=avail -BG "$CARGO_TARGET_DIR" | tail -n 1 | tr -dc 0-9)" -ge 5 ]; then
    export MKIMG_TEST_LARGE=1
fi
# They wait for the kernel, for timers and for each other's mounts: more of them than processors at a time.
step 'end-to-end tests' env RUST_TEST_THREADS=4 cargo test -p mkimg-tests --locked --no-fail-fast

# Figures of one round on a tiny image say nothing; that all commands still work does.
step benchmarks benches/run --smoke

# The fuzz crate stands outside the workspace; it skips itself without a nightly compiler.
step fuzz env -u CARGO_TARGET_DIR fuzz/run.sh "${MKIMG_FUZZ_SECONDS:-4}"

echo
if [ -s "$MKIMG_SKIPPED" ]; then
    printf '%d skipped:\n' "$(wc -l <"$MKIMG_SKIPPED")"
    sed 's/^/  /' "$MKIMG_SKIPPED"
else
    echo 'nothing skipped'
fi
printf 'done in %d s\n' "$SECONDS"
# Nothing has failed, or this would not be reached.
awk -v skipped="$(wc -l <"$MKIMG_SKIPPED")" '
    /^test result: ok\. / { passed += $4 }
    END { printf "%d passed, 0 failed, %d skipped\n", passed, skipped }' "$log"
