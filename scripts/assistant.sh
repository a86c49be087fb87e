#!/usr/bin/env bash
# Make a small assistant from nothing, in half an hour on a laptop's processor. The script trains a
# tokenizer and a model on text, fine-tunes the model on dialogues, measures it, and opens a chat:
#
#   bash scripts/assistant.sh                                      downloads stories and instructions, 45 MB
#   bash scripts/assistant.sh --text FILE... --dialogues FILE...   uses your own files
#
# --text FILE...        plain text, Markdown, JSON lines, JSON or Parquet; without this flag, the script
#                       downloads the stories
# --dialogues FILE...   JSON lines, JSON or Parquet, in a form that docs/finetuning.md lists; without this
#                       flag, the script downloads the instructions, also beside --text
#
# The results are in runs/assistant, or for your own files in runs/assistant-NUMBER. A second run with the
# same files continues there.
set -euo pipefail

stop() {
    echo "$1" >&2
    exit 2
}
text=() dialogues=() flag="" without=""
for word in "$@" ""; do # the empty word ends the last list of files
    case "$word" in
        --help | -h)
            sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        --text | --dialogues | "")
            [ -z "$without" ] || stop "$without needs a file; write $without FILE"
            flag=$word without=$word
            ;;
        -*) stop "the flag must be --text or --dialogues ($word); --help explains both" ;;
        *)
            [ -n "$flag" ] || stop "a flag must be before a file ($word); write --text $word or --dialogues $word"
            [ ! -d "$word" ] || stop "$flag needs files, and no folder ($word); write the names of the files"
            [ -f "$word" ] || stop "the file must exist ($word); write $flag FILE"
            path=$(cd "$(dirname "$word")" && pwd)/$(basename "$word") without=""
            if [ "$flag" = --text ]; then text+=("$path"); else dialogues+=("$path"); fi
            ;;
    esac
done
home=runs/assistant
[ $# = 0 ] || home=$home-$(cat ${text+"${text[@]}"} ${dialogues+"${dialogues[@]}"} | cksum | cut -d' ' -f1)
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
install ""

show() { # print a command, then run it
    say "$(printf '%q ' "$@")"
    "$@"
}

mkdir -p "$home"
if [ ${#text[@]} = 0 ]; then # the validation part of the stories is large enough: 22 MB
    text=(data/assistant/TinyStoriesV2-GPT4-valid.txt)
    [ -f "${text[0]}" ] || show scratchlm-data download tinystories --train_max 0 --val_dir data/assistant
fi
if [ ${#dialogues[@]} = 0 ]; then
    dialogues=(data/assistant/alpaca_data.json)
    [ -f "${dialogues[0]}" ] || show scratchlm-data download alpaca --output data/assistant
fi
[ -f "$home/train.jsonl" ] || show python scripts/split_dialogues.py "$home" "${dialogues[@]}"
[ -f "$home/tokenizer.json" ] ||
    show scratchlm-tokenize --corpus "${text[@]}" "$home/train.txt" --vocab_size 4096 \
        --special_tokens "<|endoftext|>" "<|im_start|>" "<|im_end|>" --output_tokenizer "$home/tokenizer.json"
if [ ! -d "$home/text" ]; then
    rm -rf "$home/encoding" # what a stopped run left
    show scratchlm-tokenize --tokenizer_path "$home/tokenizer.json" --encode "${text[@]}" --output "$home/encoding"
    mv "$home/encoding" "$home/text"
fi
# --resume auto continues a stopped run and leaves a finished run as it is.
show scratchlm-train --config configs/assistant.toml --train_data "$home/text" --out "$home/base" --resume auto
# A small set needs several epochs. A large set gets all the time that remains of the half hour.
length=(--epochs 6)
[ "$(wc -c <"$home/train.jsonl")" -lt 4000000 ] || length=(--minutes 10)
show scratchlm-train --config configs/sft.toml --init_from "$home/base" --train_data "$home/train.jsonl" \
    --val_data "$home/held-out.jsonl" --optimizer muon --lr 0.01 --optim.adamw_lr 3e-3 --batch_size 4 \
    --eval_every 1000 "${length[@]}" --out "$home/chat" --resume auto
show python scripts/measure_assistant.py "$home/base" "$home/chat" "$home/held-out.jsonl"
chat=(scratchlm-chat --model_path "$home/chat" --temperature 0.6 --top_p 0.95)
if [ -t 0 ] && [ -t 1 ]; then
    show "${chat[@]}"
else
    say "what now"
    echo "Chat with the model: .venv/bin/${chat[*]}"
fi
