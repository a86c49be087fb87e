# quickstart.sh and test.sh source this file. It goes to the checkout and defines
#   install EXTRAS     make .venv once, install once; e.g. `install ""` or `install "[dev]"`
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n\033[1m==> %s\033[0m\n' "$*"; }

install() {
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        local python="" each
        for each in python3 python3.13 python3.12 python3.11; do
            if "$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
                python=$each
                break
            fi
        done
        if [ -z "$python" ]; then
            echo "scratchlm needs Python 3.11 or newer (none found); install one and run this again" >&2
            exit 2
        fi
        say "$python -m venv .venv"
        "$python" -m venv --clear .venv || {
            echo "cannot make a virtual environment; on Debian or Ubuntu: apt install python3-venv" >&2
            exit 2
        }
    fi
    # The name of a stamp file is a hash of everything that decides what to install.
    local stamp
    stamp=.venv/installed-$(cat pyproject.toml scripts/constraints.txt <(echo "$PWD$1") | cksum | tr -d ' ')
    if [ ! -e "$stamp" ]; then
        say "pip install -c scripts/constraints.txt -e .$1"
        .venv/bin/python -m pip install -q --disable-pip-version-check -c scripts/constraints.txt -e ".$1"
        touch "$stamp"
    fi
    PATH="$PWD/.venv/bin:$PATH"
}
