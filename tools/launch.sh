# Sourced by the launchers: what they check before anything starts, and torchrun.
#   refuse MESSAGE                   ends the launcher with one line and code 2
#   number NAME VALUE LEAST [MOST]   refuses a VALUE that is no whole number in this range; bash would calculate with it
#   path NAME VALUE                  prints a path that no program takes for an option; refuses what was meant as one
#   torchrun GPUS SCRIPT [arguments] becomes torchrun with so many processes on this machine
refuse() {
  printf '%s: %s\n' "${0##*/}" "$1" >&2
  exit 2
}

number() {
  local most=${4:-999999}
  if ! [[ $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] || (($2 < $3 || $2 > most)); then
    refuse "$1 must be a whole number from $3 to $most, without unit or leading zero, got $(printf %q "$2")"
  fi
}

path() {
  case $2 in
    --*) refuse "$1 stands before all options, got $(printf %q "$2")" ;;
    -*) printf '%s' "./$2" ;;
    *) printf '%s' "$2" ;;
  esac
}

torchrun() {
  local nodes=${NNODES:-1} rank=${NODE_RANK:-0} port=${PORT:-29500}
  number GPUS "$1" 1
  number NNODES "$nodes" 1
  number NODE_RANK "$rank" 0 $((nodes - 1))
  number PORT "$port" 1 65535
  exec "${PYTHON:-python}" -m torch.distributed.run --nnodes="$nodes" --node-rank="$rank" --nproc-per-node="$1" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" --master-port="$port" "${@:2}"
}
