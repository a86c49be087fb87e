"""scratchlm-chat: talk with a model.

scratchlm-chat --model_path Qwen3-0.6B --system "Answer in one sentence."
scratchlm-chat --model_path runs/shakespeare --template plain --max_tokens 60
scratchlm-chat --model_path Qwen3-0.6B < messages.txt > replies.txt

In a chat, /help lists the commands. A chat that reads from a pipe or a file ends at the first
error, with the same exit code as scratchlm-generate.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from scratchlm.cli.chat_flags import parse
from scratchlm.cli.command import command
from scratchlm.cli.recipes import check_model


@command(stops_with_its_reader=True)
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv, __doc__ or "")
    # These imports are slow, and --help does not need them.
    from scratchlm.chat.conversation import Conversation
    from scratchlm.chat.running_text import find_template
    from scratchlm.cli.chat_session import Session, greeting
    from scratchlm.cli.chat_settings import Settings
    from scratchlm.cli.chat_terminal import Terminal
    from scratchlm.generation.generator import TextGenerator
    from scratchlm.generation.text_stream import check_stop

    check_model(args.model_path)
    settings = Settings()
    for name in settings.values:  # check the settings first: loading may take minutes
        if getattr(args, name, None) is not None:
            settings.set(name, getattr(args, name))
    check_stop(args.stop)
    saved = None if args.load is None else Path(args.load).read_bytes()
    writer = TextGenerator.load(args.model_path, args.tokenizer_path, args.device)
    settings.fit(len(writer.tokenizer))
    if saved is None:
        conversation = Conversation(writer, find_template(args.template or "auto", writer))
    else:
        conversation = Conversation.from_json(writer, saved, args.load, args.template)
    session = Session(conversation, settings, Terminal(), args.stop)
    if args.system is not None:
        session.set_system(args.system)
    print(greeting(args.model_path, conversation), file=sys.stderr)
    session.run()


if __name__ == "__main__":
    sys.exit(main())
