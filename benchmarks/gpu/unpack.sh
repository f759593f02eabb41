#!/bin/sh
# Puts together what pack.sh cut, on the GPU machine, and says how to use it.
#
#   sh PIECES/unpack.sh SITE    SITE: a folder to make; beside it nothing is changed
set -eu

pieces=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
site=$(cd "$1" && pwd)
(cd "$pieces" && sha256sum --check --quiet SHA256SUMS)
cat "$pieces"/kit-* | xz -dc -T0 | tar -C "$site" --strip-components=1 -xf -
printf '%s\n' "export PYTHONPATH=$site LD_LIBRARY_PATH=$site/tensorrt_libs" "python3 -m inferbench_cli backends"
