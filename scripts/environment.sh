# Sourced by the other scripts: makes .venv in the repository and installs unet_jax into it.
#   install EXTRAS    e.g. install dev; an empty string for none
# uv is used when present, venv and pip otherwise. UNET_JAX_PYTHON names the interpreter to use.

# pip installs without compiling modules, because most of them are never imported. So those that are must stay compiled.
unset PYTHONDONTWRITEBYTECODE

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

find_python() {
    local candidate
    for candidate in ${UNET_JAX_PYTHON:-} python3 python3.12 python3.13 python3.11 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "No Python 3.11 or newer was found. Install one, or name it: UNET_JAX_PYTHON=/path/to/python3.12 $0" >&2
    return 1
}

install() {
    local extras=$1 python
    local target="${repository}${extras:+[$extras]}"
    local stamp="$repository/.venv/.installed-${extras:-plain}"
    if [ -e "$stamp" ] && [ ! "$repository/pyproject.toml" -nt "$stamp" ]; then
        return
    fi
    python=$(find_python)
    echo "installing unet_jax into $repository/.venv (the first time takes a few minutes) ..."
    if command -v uv >/dev/null 2>&1; then
        [ -x "$repository/.venv/bin/python" ] || uv venv --quiet --python "$python" "$repository/.venv"
        uv pip install --quiet --python "$repository/.venv/bin/python" --editable "$target"
    else
        [ -x "$repository/.venv/bin/python" ] || "$python" -m venv "$repository/.venv"
        "$repository/.venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile --editable "$target"
    fi
    touch "$stamp"
}
