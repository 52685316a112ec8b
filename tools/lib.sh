# shellcheck shell=bash
# Shared by the scripts in tools/ and tests/: where things are, and how to talk to the user.
set -euo pipefail
export LC_ALL=C
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export STURNUS_HOME=${STURNUS_HOME:-$top/.sturnus}
PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin
target=${CARGO_TARGET_DIR:-$top/target}
# PROFILE=dev takes the quick build that developers have at hand, for a first look; figures are of the release build.
profile=${PROFILE:-release}
sturnus=$target/${profile/dev/debug}/sturnus
pid_file=$STURNUS_HOME/run/sturnus.pid

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }
need_root() { [ "$(id -u)" = 0 ] || die "run it as root: $1"; }

# The cloud's process id, when that process lives and is ours (a recycled id is not).
cloud_pid() {
	local pid
	pid=$(cat "$pid_file" 2>/dev/null) || return 1
	[ -n "$pid" ] && [ "$(basename "$(readlink "/proc/$pid/exe" 2>/dev/null | sed 's/ (deleted)$//')")" = sturnus ] || return 1
	echo "$pid"
}

cloud_url() { sed -n 's#^export OS_AUTH_URL=[^h]*\(https\{0,1\}://[^/"'"'"']*\).*#\1#p' "$STURNUS_HOME/openrc"; }
