# shellcheck shell=bash
# Packages of another Debian than this one: fetched with apt from the system's mirror,
# under Debian's signature, and unpacked, not installed. Nothing of the system's changes.
# For scripts that source it; fail MESSAGE is theirs.

debian_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

debian_mirror() {
	local site

	site=$(apt-get indextargets --format "\$(REPO_URI)" 'Identifier: Packages' 'Origin: Debian' \
		'Component: main' 2>/dev/null | grep -v -- -security | head -n 1)
	echo "${site:-http://deb.debian.org/debian/}"
}

# apt or apt-cache with lists and a cache of its own, below FOLDER (a whole path).
debian_apt() { # FOLDER apt-get|apt-cache ARGUMENTS...
	local folder=$1 program=$2

	shift 2
	"$program" -qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$folder/sources" \
		-o Dir::State::Lists="$folder/lists" -o Dir::Cache="$folder/cache" \
		-o APT::Sandbox::User= -o Acquire::Languages=none \
		-o Acquire::Check-Valid-Until="${debian_valid_until:-true}" "$@" </dev/null
}

debian_lists() { # FOLDER SUITE
	command -v apt-get >/dev/null || fail "there is no apt-get here"
	[ -f $debian_keyring ] || fail "$debian_keyring is missing; install the package debian-archive-keyring"
	mkdir -p "$1"/{sources,lists/partial,cache/archives/partial,root}
	cat >"$1/sources/$2.sources" <<-SOURCE
		Types: deb
		URIs: $(debian_mirror)
		Suites: $2
		Components: main
		Signed-By: $debian_keyring
	SOURCE
	debian_apt "$1" apt-get update >&2 ||
		fail "no package lists of Debian $2 from $(debian_mirror); is there a network?"
}

# Into FOLDER/root.
debian_unpack() { # FOLDER PACKAGE...
	local folder=$1 package

	shift
	(cd "$folder/cache" && debian_apt "$folder" apt-get download "$@" >&2) || fail "could not fetch $*"
	for package in "$folder"/cache/*.deb; do
		dpkg-deb -x "$package" "$folder/root"
	done
}
