#!/usr/bin/env bash
# Train a model that writes Python, from nothing, in minutes on a laptop's processor:
#   bash scripts/quickstart.sh                  on the standard library's sources, without a download
#   bash scripts/quickstart.sh --corpus FILE    on your own text file
# A second run reuses the files of the first.
set -euo pipefail

corpus=""
case "$# ${1-}" in
    "0 ") ;;
    "1 --help" | "1 -h")
        echo "usage: bash scripts/quickstart.sh [--corpus FILE]"
        exit 0
        ;;
    "2 --corpus")
        if [ ! -f "$2" ]; then
            echo "no such file ($2); give --corpus FILE" >&2
            exit 2
        fi
        corpus=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
        ;;
    *)
        echo "usage: bash scripts/quickstart.sh [--corpus FILE]" >&2
        exit 2
        ;;
esac
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
install ""

show() { # print a command, then run it
    say "$(printf '%q ' "$@")"
    "$@"
}

if [ -n "$corpus" ]; then
    home=runs/quickstart-$(basename "$corpus" | tr -c 'A-Za-z0-9\n' '-')-$(cksum <"$corpus" | cut -d' ' -f1)
    train=$corpus data=(--train_data "$home/train.bin") sides=(train)
    prompts=("The ")
else
    home=runs/quickstart
    train=$home/train.txt data=(--train_data "$home/train.bin" --val_data "$home/val.bin") sides=(train val)
    prompts=($'def read_lines(path):\n    """' $'import os\nimport sys\n\n\ndef main(')
    [ -f "$train" ] || show python scripts/stdlib_corpus.py "$home"
fi
mkdir -p "$home"
[ -f "$home/tokenizer.json" ] ||
    show scratchlm-tokenize --corpus "$train" --vocab_size 4096 --output_tokenizer "$home/tokenizer.json"
for side in "${sides[@]}"; do
    text=$train
    [ "$side" = train ] || text=$home/$side.txt
    [ -f "$home/$side.bin" ] ||
        show scratchlm-tokenize --tokenizer_path "$home/tokenizer.json" --encode "$text" --output "$home/$side.bin"
done
# --resume auto continues a stopped run and leaves a finished run as it is.
show scratchlm-train --config configs/quickstart.toml "${data[@]}" --out "$home/run" --resume auto
for prompt in "${prompts[@]}"; do
    show scratchlm-generate --model_path "$home/run" --prompt "$prompt" \
        --max_tokens 160 --temperature 0.6 --top_p 0.95 --seed 1
done
say "what now"
cat <<EOF
The log:           $home/run/log.jsonl
Another sample:    .venv/bin/scratchlm-generate --model_path $home/run --prompt "import " --max_tokens 200
Train anew, longer: .venv/bin/scratchlm-train --config configs/quickstart.toml ${data[*]} --minutes 20
The commands:      source .venv/bin/activate
Your own text:     bash scripts/quickstart.sh --corpus FILE
EOF
