#!/bin/sh
# Gathers what a GPU machine lacks that reaches no package registry, and cuts it into pieces that can be taken there.
#
#   benchmarks/gpu/pack.sh OUT [PYTHON]    PYTHON: the version there; default 3.12. OUT/pieces is what to take along
#
# Needs `make setup-gpu`, and Maven's client for TensorRT's libraries, which are in no Python registry. That TensorRT is
# one version (locks/tensorrt-10.6.txt, redist.py); KIT_TENSORRT=none leaves it out. KIT_SM=90 makes the kit for GPUs of
# compute capability 9.0 alone, a quarter as large (thin.py). That machine has Linux on x86, PyTorch for CUDA and
# torchvision already. unpack.sh is for there.
set -eu

mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
python=${2:-3.12}
uv=${KIT_UV:-.venv/bin/uv}

# What is large and there already, and what only checks or builds this repository.
left_out='torch|torchvision|triton|cuda-toolkit|nvidia-(cu[^r]|n).*|openvino.*|tensorrt-.*|efficientnet-.*'
left_out="$left_out|filelock|fsspec|jinja2|markupsafe|sympy|mpmath|setuptools|mypy.*|ruff|librt|ast-serialize"
left_out="$left_out|import-linter|grimp|hatchling|kubernetes|kopf|aiohttp.*|uvloop|types-.*"

say() { printf '%s\n' "$*" >&2; }
install() { "$uv" pip install --quiet --no-deps --target "$out/site" --python-version "$python" \
    --python-platform x86_64-manylinux_2_28 "$@"; }

case ${KIT_TENSORRT:-} in
'' | none) ;;
*)
    say "KIT_TENSORRT is $KIT_TENSORRT, and there is one TensorRT for a kit: say none to leave it out, or nothing."
    exit 2
    ;;
esac

rm -rf "$out/site" "$out/pieces"
mkdir -p "$out/site" "$out/pieces"

say "Fetching what locks/gpu.txt pins, but for what is there already..."
awk -v left_out="^($left_out)==" '/^[a-z0-9]/ { keep = $1 !~ left_out } keep' locks/gpu.txt >"$out/lock.txt"
install --only-binary :all: --require-hashes --requirements "$out/lock.txt"
say "Building inferbench itself..."
install --no-build-isolation .

if [ -z "${KIT_TENSORRT:-}" ]; then
    bindings=$(awk '/^tensorrt/ { print $1 }' locks/tensorrt-10.6.txt)
    say "Fetching TensorRT: $bindings, and its libraries from Maven (1.1 GB)..."
    install --only-binary :all: --require-hashes --requirements locks/tensorrt-10.6.txt
    python3 benchmarks/gpu/redist.py "$out/site"
fi

if [ -n "${KIT_SM:-}" ]; then
    say "Blanking what is not for compute capability $KIT_SM..."
    find "$out/site/onnxruntime" "$out/site/tensorrt_libs" -name '*.so*' -size +1M 2>/dev/null |
        xargs python3 benchmarks/gpu/thin.py "$KIT_SM" >&2
fi
say "Compressing..."
tar -C "$out" -cf - site | xz -3 -T0 | split -b "${KIT_PIECE:-60M}" -a 3 - "$out/pieces/kit-"
cp benchmarks/gpu/unpack.sh "$out/pieces/"
(cd "$out/pieces" && sha256sum kit-* >SHA256SUMS)
say "$(find "$out/pieces" -name 'kit-*' | wc -l) pieces, $(du -sh "$out/pieces" | cut -f1), in $out/pieces"
