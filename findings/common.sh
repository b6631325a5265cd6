# What every find begins with: a temporary folder, pinned public packages in it, and a program whose output must be the
# one that was seen.  To be sourced by bash.
set -euo pipefail
PYTHON=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PIP_QUIET=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_RETRIES=10
unset PYTHONHOME PYTHONPATH VIRTUAL_ENV

install() { # requirements with their versions
    "$PYTHON" -m venv "$folder/environment"
    "$folder/environment/bin/pip" install "$@"
}

expect() { # output; the program comes from standard input
    local seen
    cat >"$folder/program.py"
    seen=$(cd "$folder" && environment/bin/python program.py)
    if [[ $seen != "$1" ]]; then
        printf 'CHANGED\nexpected: %s\nseen:     %s\n' "$1" "$seen" >&2
        exit 1
    fi
    printf 'as described: %s\n' "$seen"
}
