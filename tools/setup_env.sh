#!/usr/bin/env bash
# Makes a development environment: setup_env.sh VENV [PYTHON]
# A virtual environment at VENV with this checkout, editable, and the maintained OpenMMLab of requirements/constraints.txt,
# or, with STACK=stock, the stock one on torch 2.1 of requirements/stock.txt.
set -euo pipefail

if [[ $# -lt 1 || $1 == -h || $1 == --help ]]; then
  echo "usage: [STACK=stock] $0 VENV [PYTHON]   make the virtual environment VENV, from the interpreter PYTHON (default python3)"
  [[ $# -ge 1 ]] && exit 0 || exit 2
fi
venv=$1
base=${2:-python3}
stack=${STACK:-maintained}
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }
die() { printf 'set-up failed: %s\n' "$*" >&2; exit 1; }

case $stack in
  maintained) constraints=requirements/constraints.txt mmcv=onedl-mmcv extras='[openmmlab,pretrain,rotate,hub,onnx,explore,dev]' oldest='3, 10' ;;
  stock) constraints=requirements/stock.txt mmcv=mmcv extras='' oldest='3, 10' ;;
  *) die "STACK must be maintained or stock, got '$stack'" ;;
esac
command -v "$base" >/dev/null || die "no '$base' here; install Python 3.10 or newer"
"$base" -c "import sys; sys.exit(sys.version_info < ($oldest))" || die "$("$base" --version) is too old; Python 3.10 or newer is needed"
[[ $stack == maintained ]] || "$base" -c 'import sys; sys.exit(sys.version_info >= (3, 12))' || die "torch 2.1 needs Python 3.10 or 3.11; this is $("$base" --version)"
command -v c++ >/dev/null || die "no C++ compiler (c++) here; mmcv's operators are compiled from source"
header=$("$base" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
[[ -f $header ]] || die "no '$header' here, which compiling mmcv needs; Debian and Ubuntu have it in python3-dev"

say "1/3 virtual environment $venv, torch and the build tools (1 to 3 minutes, mostly download)"
"$base" -m venv "$venv"
python=$venv/bin/python
pip=("$python" -m pip install --disable-pip-version-check --quiet --constraint "$constraints")
"${pip[@]}" setuptools wheel packaging ninja torch numpy

# Most of compiling a file of mmcv is reading PyTorch's headers. They are compiled once, into a file that g++ finds beside
# the header. g++ takes it only with the options that it was made with; otherwise it reads the headers themselves.
header=$("$python" -c 'import sys; print(sys.prefix)')/mmcv.h
flags="-O2 -g0 ${CFLAGS:-}"  # setuptools leaves its own -O3 out where there are CFLAGS; -g0 leaves debug symbols out
precompile() {
  local macros="-DTORCH_API_INCLUDE_EXTENSION_H -DTORCH_EXTENSION_NAME=_ext" folders
  folders=$("$python" -c 'import sysconfig
from torch.utils.cpp_extension import include_paths
print(*(f"-I{path}" for path in (*include_paths(), sysconfig.get_path("include"))))')
  echo '#include <torch/types.h>' >"$header"
  c++ $flags -fPIC $folders -std=c++17 $macros -x c++-header "$header" -o "$header.gch" 2>/dev/null || rm -f "$header"*
}

say "2/3 mmcv, whose C++ operators are compiled (about 2 minutes on 2 cores, and none where pip has built it before)"
# Build isolation would hide torch, and mmcv would then build without its operators and not say so.
# ninja must be found on PATH. A job needs up to 2 GiB.
memory=$(awk '/MemAvailable/ {print int($2 / 2097152)}' /proc/meminfo 2>/dev/null || echo 2)
cores=$(nproc 2>/dev/null || echo 2)
jobs=$((cores < memory ? cores : memory > 0 ? memory : 1))
compile_mmcv() {
  precompile
  local include=
  [[ ! -f $header ]] || include="-include $header"
  CFLAGS="$include $flags" MAX_JOBS=$jobs PATH="$(cd "$venv/bin" && pwd):$PATH" "${pip[@]}" --no-build-isolation "$@" "$mmcv"
  rm -f "$header"*
}
command -v ccache >/dev/null && export CXX="ccache c++" CC="ccache cc"
compile_mmcv
if ! "$python" -c 'import mmcv._ext' 2>/dev/null; then
  # pip's wheel cache knows mmcv's version but not the torch it was built against.
  say "    the cached mmcv does not fit this torch: compiling it again"
  compile_mmcv --no-cache-dir --force-reinstall --no-deps
fi

say "3/3 the rest of OpenMMLab, mmsec, and the tools of its development (1 minute)"
if [[ $stack == stock ]]; then
  "${pip[@]}" --no-build-isolation -r requirements/stock.txt
fi
"${pip[@]}" --no-build-isolation --editable ".$extras"
if [[ $stack == maintained ]]; then
  # PyPI's torchvision is for CUDA. Beside a CPU build of torch it fails to be imported, and takes mmdet and mmengine with
  # it, which import it where they find it. In a folder of its own only mmsec/cli/torchvision_apart.py finds it, which
  # the tools import for mmpretrain.
  "${pip[@]}" --no-deps --upgrade --target "$venv/torchvision" torchvision
fi
"$python" - <<'PY'
import mmcv, mmcv._ext, mmdet, mmengine, mmseg, torch
print(f'torch {torch.__version__}, mmengine {mmengine.__version__}, mmcv {mmcv.__version__} with operators, '
      f'mmdet {mmdet.__version__}, mmseg {mmseg.__version__}')
PY
