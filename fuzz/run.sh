#!/usr/bin/env bash
# Runs every fuzz target for a while: fuzz/run.sh [SECONDS [TARGET]...]
#
# SECONDS is the time for each target (default 20). Builds the targets, makes the seeds, prints one line for each
# target and fails if one of them crashed, hung or used more than 512 MiB. What it ran into is then in
# fuzz/artifacts. Without a nightly compiler or cargo-fuzz it says so and does nothing.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 2
seconds=${1:-20}
shift $(($# > 0))
case $seconds in
    '' | *[!0-9]*)
        echo 'usage: fuzz/run.sh [SECONDS [TARGET]...]' >&2
        exit 2
        ;;
esac
skip() {
    printf 'skipped: fuzz: %s\n' "$*" | tee -a "${MKIMG_SKIPPED:-/dev/null}"
    exit 0
}
# libdeflate compiles one table into several files, under one name, which is no mistake of its own.
export ASAN_OPTIONS=detect_odr_violation=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}
log=$(mktemp) || exit 2
trap 'rm -f "$log"' EXIT

rustup run nightly rustc --version >/dev/null 2>&1 || skip 'no nightly compiler'
tools=${MKIMG_TOOLS:-$PWD/../target/tools}
PATH=$tools/bin:$PATH
if ! cargo fuzz --version >/dev/null 2>&1; then
    echo 'fuzz: installing cargo-fuzz'
    cargo install cargo-fuzz --locked --quiet --root "$tools" --target-dir "$tools/build" >"$log" 2>&1 ||
        skip "cargo-fuzz cannot be installed: $(tail -n 1 "$log")"
    rm -rf "$tools/build"
fi

# Of its own, whatever the caller has: other flags would make cargo build everything again.
export CARGO_TARGET_DIR=${MKIMG_FUZZ_TARGET_DIR:-$PWD/target}
unset RUSTFLAGS
began=$SECONDS
if ! cargo +nightly fuzz build --fuzz-dir . >"$log" 2>&1; then
    cat "$log" >&2
    exit 1
fi
built=$CARGO_TARGET_DIR/$(rustc -vV | sed -n 's/^host: //p')/release
printf 'built in %d s\n' "$((SECONDS - began))"
"$built/seeds" corpus >"$log" 2>&1 || {
    cat "$log" >&2
    exit 1
}
[ $# -gt 0 ] || mapfile -t targets < <(cargo +nightly fuzz list --fuzz-dir .)
[ $# -eq 0 ] || targets=("$@")

# Scratch files in memory.
scratch=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")" mkimg-fuzz.XXXXXX) || exit 2
trap 'rm -rf "$log" "$scratch"' EXIT
# Freed memory that AddressSanitizer keeps back counts as used; leaks it could only find where ptrace is allowed.
export TMPDIR=$scratch ASAN_OPTIONS=detect_odr_violation=0:detect_leaks=0:quarantine_size_mb=16
failed=0
for target in "${targets[@]}"; do
    mkdir -p "corpus/$target" "artifacts/$target"
    if "$built/$target" -max_total_time="$seconds" -rss_limit_mb=512 -timeout=10 -max_len=131072 \
        -print_final_stats=1 -artifact_prefix="artifacts/$target/" "corpus/$target" >"$log" 2>&1; then
        verdict=ok
    else
        verdict=FAILED failed=1
    fi
    last=$(grep -aoE 'cov: [0-9]+ ft: [0-9]+' "$log" | tail -n 1)
    stat() { sed -n "s/^stat::$1: *//p" "$log"; }
    printf '%-14s %-6s runs %-8s exec/s %-6s peak %s MiB, %s\n' "$target" "$verdict" \
        "$(stat number_of_executed_units)" "$(stat average_exec_per_sec)" "$(stat peak_rss_mb)" "${last:-no coverage}"
    if [ "$verdict" = FAILED ]; then
        grep -aE -A 4 'panicked at|ERROR: |SUMMARY: |Test unit written' "$log" | head -n 40
    fi
done
exit "$failed"
