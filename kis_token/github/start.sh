# This script finds a Python that can run the step. With exec, the script replaces itself with the Python that it found.
# Because of exec, the runner's signals reach Python.
#
# A program named python can be unusable: a shim without a version, a stub, a binary for another machine, a Python that
# is too old or lacks a part of its library. Therefore the script checks a Python before the step uses this Python. If a
# Python's library is in ../lib, relative to the binary's folder, the script only runs "python -V", which takes a
# millisecond. If a Python passes the check "python -V" but lacks a module, entrypoint.py runs this script again with
# --unusable="<path>: <reason>", before a token is issued.
#
# The script is POSIX sh, because Alpine has no bash. GITHUB_ACTION_PATH is the folder of entrypoint.py.
set +e -C

LONGEST=20 # the time limit for the check of one Python, in seconds
HINT="Install Python 3.10 or newer, or add a step with actions/setup-python before this one."
PROBE='
import sys
try:
    import json, ssl, zlib
    lack = ""
except ImportError as error:
    lack = " without " + (getattr(error, "name", None) or "all of its library")
usable = sys.version_info >= (3, 10) and not lack
print("\n|Python %d.%d.%d" % sys.version_info[:3] + lack + "|" + (sys.executable or "-" if usable else "") + "|")
'

started=
unusable=
probes=0
for word; do
  case $word in
    --started=*) started=$word ;;
    --unusable=*) unusable=${word#*=} ;;
  esac
done
tried=$unusable

# Whether a path is the binary of a Python whose library is in ../lib, relative to the binary's folder. If the path is a
# script, is_installation returns 1, which means false.
is_installation() {
  first=
  { IFS= read -r first < "$1"; } 2> /dev/null
  case $first in '#!'*) return 1 ;; esac
  for codecs in "${1%/*}"/../lib/python3.*/encodings/__init__.py; do
    if [ -r "$codecs" ]; then return 0; fi
  done
  return 1
}

# Whether is_installation accepts a path. If the path is a link (as in a virtual environment), is_installation may also
# accept the link's target.
leads_to_installation() {
  if is_installation "$1"; then return 0; fi
  [ -h "$1" ] && target=$(readlink -f "$1" 2> /dev/null) && is_installation "$target"
}

# Run the arguments as a command that may start a Python. If the command is still running after LONGEST seconds, kill
# the command. Set the variable `status` to the exit status, and the variable `said` to the version and the missing
# module. If the Python is usable, set the variable `executable` to the Python's path.
probe() {
  said=
  executable=
  probes=$((probes + 1))
  answer=${RUNNER_TEMP:-${TMPDIR:-/tmp}}/kis-token-python-$$-$probes
  "$@" -I -S -c "$PROBE" < /dev/null > "$answer" 2> /dev/null &
  child=$!
  {
    trap 'kill "$!"; exit' TERM
    sleep "$LONGEST" &
    wait "$!" && kill -9 "$child"
  } > /dev/null 2>&1 &
  watch=$!
  trap 'kill "$child" "$watch" 2> /dev/null; rm -f "$answer"; exit 130' INT TERM
  wait "$child" 2> /dev/null
  status=$?
  kill "$watch" 2> /dev/null
  trap - INT TERM
  while IFS='|' read -r before version path _; do
    case $before$version in "Python "*) said=$version executable=$path ;; esac
  done 2> /dev/null < "$answer"
  rm -f "$answer" 2> /dev/null
}

# Run "python -V", which does not start the interpreter. Set the variable `status` to the exit status, and the variable
# `said` to the version.
ask_version() {
  said=$("$1" -V 2>&1 < /dev/null)
  status=$?
  said=${said#Python }
  said="Python ${said%%[!0-9.]*}"
}

# Run the step with the Python in the arguments: a path, and options such as -3. If this Python is unusable, add the
# reason to the variable `tried`.
try() {
  case "; $unusable" in *"; $1: "*) return ;; esac
  if leads_to_installation "$1"; then
    ask_version "$1"
    case $said in "Python 3."[1-9][0-9]*) become "$@" ;; esac
  else
    probe "$@"
    if [ "$executable" ]; then
      # If the command is a shim (a program that starts a Python), `executable` is the path of the Python that the shim
      # started. If is_installation accepts this path, start the Python without the shim.
      if is_installation "$executable"; then try "$executable"; fi
      become "$@"
    fi
    if [ "$status" = 2 ]; then ask_version "$1"; fi # Python 2 has no -I
  fi
  case $said in
    "Python "[0-9]*) ;;
    *) if [ "$status" = 137 ]; then said="no answer in $LONGEST s"; else said="exit status $status"; fi ;;
  esac
  tried="${tried:+$tried; }$1: $said"
}

# Replace this shell with a Python that runs the step. The arguments are the command that starts Python.
become() {
  path=$1
  set -- "$@" -I -S -X utf8 "$GITHUB_ACTION_PATH/entrypoint.py" "--python=$path"
  if [ "$started" ]; then set -- "$@" "$started"; fi
  if [ "$unusable" ]; then set -- "$@" "--unusable=$unusable"; fi
  exec "$@"
}

# The folders of PATH. The loops below skip a relative folder, because it can contain the job's own files.
set -f
IFS=:
set -- $PATH # split on purpose
unset IFS
set +f

tools=$RUNNER_TOOL_CACHE
names="python3 python"
if [ "$RUNNER_OS" = Windows ]; then
  names="python python3" # on Windows, python3 is often a stub that is not Python
  tools=$(cygpath -u "$tools" 2> /dev/null) || tools=$RUNNER_TOOL_CACHE
fi
for name in $names; do
  for place; do
    case $place in /*) if [ -f "$place/$name" ] && [ -x "$place/$name" ]; then try "$place/$name"; fi ;; esac
  done
done
for place; do
  case $place in /*) ;; *) continue ;; esac
  for file in "$place"/python3.[1-9][0-9]; do
    if [ -f "$file" ] && [ -x "$file" ]; then try "$file"; fi
  done
  if [ "$RUNNER_OS" = Windows ] && [ -x "$place/py" ]; then try "$place/py" -3; fi
done
if [ "$tools" ]; then
  # The Pythons that actions/setup-python has installed for other jobs.
  for file in "$tools"/Python/3.*/*/bin/python3 "$tools"/Python/3.*/*/python.exe; do
    if [ -f "$file" ] && [ -x "$file" ]; then try "$file"; fi
  done
fi

if [ "$tried" ]; then
  seen="No usable Python was found: $tried"
else
  seen="Python was not found"
fi
printf '%s\n' "::error::$seen [python-missing]. $HINT"
if [ "$GITHUB_OUTPUT" ]; then
  printf '%s\n' "error-code=python-missing" "error-hint=$HINT" >> "$GITHUB_OUTPUT"
fi
exit 1
