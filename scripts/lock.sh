#!/usr/bin/env bash
# Write constraints.txt, requirements.lock and requirements-predict.lock after a change of the dependencies: with uv
# (https://docs.astral.sh/uv), which resolves for all systems and versions of Python at once. Versions stay as they are
# where they still fit; --upgrade moves to newer ones.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

keep=(-c constraints.txt)
if [ "${1:-}" = --upgrade ]; then keep=(); fi
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

resolve() {  # FILE OPTION...
    uv pip compile pyproject.toml --universal --python-version 3.10 --no-annotate --no-header --no-emit-index-url \
        --generate-hashes --quiet -o "$temporary/$1" "${@:2}" > /dev/null
}

resolve all --all-extras ${keep[@]+"${keep[@]}"}
sed -n -E 's/^([A-Za-z0-9].*[^ \\]) \\$/\1/p' "$temporary/all" > "$temporary/pins"
resolve predict --extra build -c "$temporary/pins"

header() { sed -n '/^#/p' "$1"; }
{ header constraints.txt; cat "$temporary/pins"; } > "$temporary/constraints.txt"
{
    echo '# Everything, for development and the tests, each file with its hash:'
    echo '# pip install --require-hashes -r requirements.lock. See constraints.txt.'
    cat "$temporary/all"
} > "$temporary/requirements.lock"
{
    echo '# What the default installation needs, and what builds it, each file with its hash:'
    echo '# pip install --require-hashes -r requirements-predict.lock. See constraints.txt.'
    cat "$temporary/predict"
} > "$temporary/requirements-predict.lock"
mv "$temporary"/{constraints.txt,requirements.lock,requirements-predict.lock} .
