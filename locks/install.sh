#!/bin/sh
# Makes .venv hold exactly what a lock names, and inferbench itself; says each step before it is taken.
#
#   locks/install.sh STAMP [LOCK...]    STAMP: the file that says "done"; LOCK: default locks/dev.txt
#
# Only what locks/ pins by hash is installed. Nothing outside .venv is changed, but for uv's download cache.
set -eu

cd "$(dirname "$0")/.."
stamp=$1
shift
[ $# -gt 0 ] || set -- locks/dev.txt

say() { printf '%s\n' "$*" >&2; }
stop() { say "inferbench cannot be set up: $*"; exit 1; }

python=${PYTHON:-python3}
command -v "$python" >/dev/null 2>&1 ||
    stop "there is no $python. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    stop "$python is $("$python" --version 2>&1), but 3.11 or newer is needed. Name one: make PYTHON=/path/to/python3.11"
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    stop "$python lacks the module venv or ensurepip. On Debian and Ubuntu: apt-get install python3-venv"

mkdir -p .venv 2>/dev/null && [ -w .venv ] || stop "the folder $(pwd) cannot be written to"
if command -v flock >/dev/null 2>&1; then # a second `make` waits here, and then finds the work done
    exec 9<.venv
    flock -n 9 || { say "Waiting for another setup of this folder to end..."; flock 9; }
    [ ! -e "$stamp" ] || exit 0
fi
rm -f .venv/.installed-*

# The scripts of a virtual environment name its folder, so one that was copied or moved is made anew.
if ! grep -qsF " $(pwd -P)/.venv" .venv/pyvenv.cfg || ! .venv/bin/python -c '' 2>/dev/null; then
    say "Making the virtual environment .venv with $("$python" --version 2>&1)..."
    "$python" -m venv --clear .venv
fi
if ! .venv/bin/uv --version 2>/dev/null | grep -qF "uv $(sed -n 's/^uv==\([^ ]*\).*/\1/p' locks/uv.txt) "; then
    say "Installing uv, which installs the rest..."
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/uv.txt
fi

quiet=
[ -t 2 ] || quiet=--quiet # without a terminal uv shows no progress, only a long list
export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-180}" VIRTUAL_ENV="$PWD/.venv"
unset UV_PROJECT_ENVIRONMENT UV_PYTHON CONDA_PREFIX
if .venv/bin/python -c 'import importlib.util as i, sys; sys.exit(not i.find_spec("torch"))'; then
    say "Bringing the installed dependencies in step with $*..."
else
    say "Installing the locked dependencies (torch and its CUDA libraries: about 6 GB on disk, half a minute to a few minutes)..."
fi
.venv/bin/uv pip sync $quiet --require-hashes "$@"
say "Installing inferbench itself, as a link to this folder..."
.venv/bin/uv pip install $quiet --no-deps --no-build-isolation --editable .

if ! command -v "${CXX:-g++}" >/dev/null 2>&1; then
    say "Note: there is no C++ compiler (${CXX:-g++}), so on a CPU the cells of torch.compile will be Unsupported."
    say "      Everything else works. On Debian and Ubuntu: apt-get install g++"
fi
: >"$stamp"
