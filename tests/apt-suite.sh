# Sourced by setup.sh, vm/setup.sh and images.sh: packages of another Debian suite, without touching the system's apt.
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

# apt_suite SUITE COMMAND...: runs apt-get, or apt-cache for the commands that only look, with the private state of SUITE.
apt_suite() {
    local suite=$1 state program='apt-get -q'
    shift
    case $1 in depends | show | policy) program=apt-cache ;; esac
    state=$MKIMG_TOOLS/apt/$suite
    if [ ! -s "$state/sources.list" ]; then
        mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/none"
        : >"$state/status"
        local mirror
        mirror=$(debian_mirror)
        [ -n "$mirror" ] || { echo "apt-suite: no Debian mirror among the apt sources" >&2; return 1; }
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$state/sources.list"
    fi
    $program \
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

# unpack_tree SUITE DIR PACKAGE...: the packages and all they depend on, as a small root file system in DIR. Links to
# directories that are there stay: a merged /usr is made by who wants one.
unpack_tree() {
    local suite=$1 dir=$2 deb
    shift 2
    download_with_dependencies "$suite" "$@"
    for deb in "$MKIMG_TOOLS/apt/$suite/cache/archives"/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" |
            tar -x -C "$dir" --no-same-owner --keep-directory-symlink --exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/locale
        rm "$deb"
    done
}

# wrap_program TREE PROGRAM [ARGUMENT...]: makes $MKIMG_TOOLS/bin/PROGRAM, which runs TREE/usr/bin/PROGRAM with the loader
# and the libraries of the tree, so that neither has to fit the system. TREE lies in $MKIMG_TOOLS. The arguments come
# before those of the caller; $root in them is the tree.
wrap_program() {
    local tree=$1 program=$2 loader
    shift 2
    [ -x "$MKIMG_TOOLS/$tree/usr/bin/$program" ] || { echo "apt-suite: $program is missing from $tree" >&2; return 1; }
    loader=$(find "$MKIMG_TOOLS/$tree" -name 'ld-linux*.so.*' -printf '%P\n' | head -n 1)
    [ -n "$loader" ] || { echo "apt-suite: no dynamic loader in $tree" >&2; return 1; }
    mkdir -p "$MKIMG_TOOLS/bin"
    # Relative to the wrapper, so that the folder can be moved or cached.
    cat >"$MKIMG_TOOLS/bin/$program" <<WRAPPER
#!/bin/sh
root=\$(dirname "\$(readlink -f "\$0")")/../$tree
exec "\$root/$loader" --library-path "\$root/usr/lib/$(uname -m)-linux-gnu" "\$root/usr/bin/$program" $* "\$@"
WRAPPER
    chmod +x "$MKIMG_TOOLS/bin/$program"
}
