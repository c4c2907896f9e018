# Sourced by setup.sh and images.sh: packages of another Debian suite, without touching the system's apt.
#
# apt gets its own source list, package lists, cache and (empty) package database below $MKIMG_TOOLS/apt/SUITE,
# so nothing on the machine can be upgraded or pinned by accident. The mirror is the one the machine uses.
# shellcheck shell=bash

# The mirror of the machine's own Debian archive (not the security one).
debian_mirror() {
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
        awk -v suite="$(. /etc/os-release && echo "$VERSION_CODENAME")" '$1 == suite { print $2; exit }'
}

# apt_suite SUITE COMMAND...: runs apt-get with the private state of SUITE.
apt_suite() {
    local suite=$1 state
    shift
    state=$MKIMG_TOOLS/apt/$suite
    if [ ! -s "$state/sources.list" ]; then
        mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/none"
        : >"$state/status"
        local mirror
        mirror=$(debian_mirror)
        [ -n "$mirror" ] || { echo "apt-suite: no Debian mirror among the apt sources" >&2; return 1; }
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$state/sources.list"
    fi
    apt-get -q \
        -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts="$state/none" \
        -o Dir::Etc::Preferences="$state/none/preferences" -o Dir::Etc::PreferencesParts="$state/none" \
        -o Dir::State="$state" -o Dir::State::Lists="$state/lists" -o Dir::State::Status="$state/status" \
        -o Dir::Cache="$state/cache" -o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none \
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o Debug::NoLocking=true "$@"
}

# download_with_dependencies SUITE PACKAGE...: leaves the .deb files in $MKIMG_TOOLS/apt/SUITE/cache/archives.
download_with_dependencies() {
    local suite=$1
    shift
    apt_suite "$suite" update
    apt_suite "$suite" install --yes --download-only --no-install-recommends "$@"
}

# download_only SUITE DIR PACKAGE...: the named packages alone, into DIR.
download_only() {
    local suite=$1 dir=$2
    shift 2
    apt_suite "$suite" update
    mkdir -p "$dir"
    (cd "$dir" && apt_suite "$suite" download "$@")
}
