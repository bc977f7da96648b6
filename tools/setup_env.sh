#!/usr/bin/env bash
# Makes the development environment: setup_env.sh VENV [PYTHON]
# A virtual environment at VENV with the versions of requirements/constraints.txt and this checkout, editable.
set -euo pipefail

if [[ $# -lt 1 || $1 == -h || $1 == --help ]]; then
  echo "usage: $0 VENV [PYTHON]   make the virtual environment VENV, from the interpreter PYTHON (default python3)"
  [[ $# -ge 1 ]] && exit 0 || exit 2
fi
venv=$1
base=${2:-python3}
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }
die() { printf 'set-up failed: %s\n' "$*" >&2; exit 1; }

command -v "$base" >/dev/null || die "no '$base' here; install Python 3.10 or newer"
"$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || die "$("$base" --version) is too old; Python 3.10 or newer is needed"
command -v c++ >/dev/null || command -v g++ >/dev/null || die "no C++ compiler (g++) here; mmcv's operators are compiled from source"

header=$("$base" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
[[ -f $header ]] || die "no '$header' here, which compiling mmcv needs; Debian and Ubuntu have it in python3-dev"

say "1/3 virtual environment $venv, torch and the build tools (1 to 3 minutes, mostly download)"
"$base" -m venv "$venv"
python=$venv/bin/python
pip=("$python" -m pip install --disable-pip-version-check --quiet --constraint requirements/constraints.txt)
"${pip[@]}" setuptools wheel packaging ninja torch

say "2/3 mmengine, mmcv, mmdetection, mmsegmentation, mmpretrain (about 7 minutes on 2 cores the first time: mmcv's C++ operators are compiled)"
# Build isolation would hide torch, and mmcv would then build without its operators and not say so.
# -g0 leaves debug symbols out: a third less to compile. ninja must be found on PATH.
export PATH="$(cd "$venv/bin" && pwd):$PATH" CFLAGS="-g0 ${CFLAGS:-}"
"${pip[@]}" --no-build-isolation --editable '.[openmmlab,pretrain,onnx,dev]'
# PyPI's torchvision is for CUDA. Beside a CPU build of torch it fails to be imported, and takes mmdet and mmengine with
# it, which import it where they find it. In a folder of its own only mmsec/cli/torchvision_apart.py finds it, which the
# tools import for mmpretrain.
"${pip[@]}" --no-deps --upgrade --target "$venv/torchvision" torchvision

if ! "$python" -c 'import mmcv._ext' 2>/dev/null; then
  # pip's wheel cache knows mmcv's version but not the torch it was built against.
  say "    the cached mmcv does not fit this torch: compiling it again"
  "${pip[@]}" --no-build-isolation --no-cache-dir --force-reinstall --no-deps onedl-mmcv
fi

say "3/3 check"
"$python" - <<'PY'
import mmcv, mmcv._ext, mmdet, mmengine, mmseg, torch
print(f'torch {torch.__version__}, mmengine {mmengine.__version__}, mmcv {mmcv.__version__} with operators, '
      f'mmdet {mmdet.__version__}, mmseg {mmseg.__version__}')
PY
