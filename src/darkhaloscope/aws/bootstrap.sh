#!/usr/bin/env bash
# Bootstrap action of each node: installs exactly the wheel set, in an environment of its own.
#
#   bootstrap.sh CODE SUMS_SHA256 PYTHON [FILES]
#
#   CODE         where the wheel set lies: s3://bucket/prefix/NAME, or file:///folder
#   SUMS_SHA256  of CODE/SHA256SUMS, which names every file of the set with its own
#   PYTHON       minor version that the wheels are for, such as 3.11
#   FILES        where further files of the job lie (a network); put into $DHS_HOME/files
#
# Nothing but CODE and FILES is asked for: no index, no repository. The interpreter is the archive of the set
# (cpython-….tar.gz) if it has one, else the node's own of that version. DHS_HOME is /opt/darkhaloscope unless set.
# Safe to run again: an environment that stands already with the same checksums is kept.
set -euo pipefail

die() {
  echo "bootstrap: $*" >&2
  exit 1
}

[[ $# -eq 3 || $# -eq 4 ]] || die "usage: bootstrap.sh CODE SUMS_SHA256 PYTHON [FILES]"
code="${1%/}" sums_sha256="$2" python="$3" files="${4:-}"
home="${DHS_HOME:-/opt/darkhaloscope}"
[[ "$python" =~ ^3\.[0-9]+$ ]] || die "PYTHON = '$python' is no version such as 3.11"
[[ "$sums_sha256" =~ ^[0-9a-f]{64}$ ]] || die "SUMS_SHA256 is no SHA-256"

as_root() {
  if [[ "$(id -u)" -eq 0 ]] || mkdir -p "$home" 2>/dev/null; then "$@"; else sudo "$@"; fi
}

fetch_folder() { # FROM TO
  case "$1" in
    s3://*) aws s3 cp --recursive --only-show-errors "$1/" "$2/" || die "$1 cannot be fetched" ;;
    file://*) cp -R "${1#file://}/." "$2/" || die "$1 cannot be copied" ;;
    *) die "'$1' is neither s3:// nor file://" ;;
  esac
}

if [[ -n "$files" ]]; then
  as_root mkdir -p "$home/files"
  [[ -w "$home/files" ]] || sudo chown -R "$(id -u):$(id -g)" "$home"
  fetch_folder "$files" "$home/files"
fi

if [[ -f "$home/installed" && "$(<"$home/installed")" == "$sums_sha256" ]]; then
  echo "bootstrap: the wheel set ${sums_sha256:0:16} is installed already"
  exit 0
fi

as_root mkdir -p "$home"
[[ -w "$home" ]] || sudo chown -R "$(id -u):$(id -g)" "$home"
rm -rf "$home/wheels" "$home/venv" "$home/python" "$home/installed" "$home/dhs.py"
mkdir -p "$home/wheels"
fetch_folder "$code" "$home/wheels"
cd "$home/wheels"

[[ -f SHA256SUMS ]] || die "$code has no SHA256SUMS"
echo "$sums_sha256  SHA256SUMS" | sha256sum --check --status || die "$code/SHA256SUMS is not the one that was uploaded"
sha256sum --check --strict --quiet SHA256SUMS || die "a file of $code is not the one that was uploaded"
unnamed="$(comm -13 <(cut -c 67- SHA256SUMS | sort) <(find . -type f ! -name SHA256SUMS -printf '%P\n' | sort))"
[[ -z "$unnamed" ]] || die "$code holds what SHA256SUMS does not name: $unnamed"

shopt -s nullglob
archives=(cpython-*.tar.gz)
if [[ ${#archives[@]} -gt 0 ]]; then
  tar -xzf "${archives[0]}" -C "$home"
  interpreter="$home/python/bin/python$python"
else
  interpreter="$(command -v "python$python" || true)"
fi
[[ -x "$interpreter" ]] || die "no python$python: put an archive of one (cpython-….tar.gz) into the wheel set"

# No index, no dependency that is looked for, no configuration of the machine's: the set, or nothing. pip comes
# with the set too, since not every interpreter brings one.
pips=(pip-*.whl)
[[ ${#pips[@]} -eq 1 ]] || die "the wheel set must hold one wheel of pip, and holds ${#pips[@]}"
"$interpreter" -I -m venv --without-pip "$home/venv"
env -i PATH="$PATH" HOME="$home" LC_ALL=C.UTF-8 PYTHONPATH="${pips[0]}" "$home/venv/bin/python" -m pip \
  --isolated --no-cache-dir --disable-pip-version-check \
  install --quiet --no-index --no-deps --only-binary :all: ./*.whl || die "the wheel set cannot be installed"
env -i PATH="$PATH" HOME="$home" "$home/venv/bin/python" -I -m pip --disable-pip-version-check check ||
  die "the wheel set is not complete"

# spark-submit takes a program for Python where its name ends in .py.
ln -s "$("$home/venv/bin/python" -I -c 'import darkhaloscope, os; print(os.path.dirname(darkhaloscope.__file__))')/__main__.py" "$home/dhs.py"
(cd / && "$home/venv/bin/python" "$home/dhs.py" --version) || die "what was installed does not start"
rm -rf "$home/wheels"
echo "$sums_sha256" >"$home/installed"
echo "bootstrap: wheel set ${sums_sha256:0:16} installed for python$python"
