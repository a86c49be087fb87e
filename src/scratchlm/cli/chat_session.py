"""The loop of `scratchlm-chat`: messages and commands in, replies out."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from scratchlm.chat.conversation import Conversation, Pieces, is_conversation
from scratchlm.cli.chat_settings import OFF, Settings
from scratchlm.cli.chat_terminal import Terminal
from scratchlm.cli.command import exit_code, one_line
from scratchlm.costs.model_costs import count_parameters
from scratchlm.errors import Interrupted
from scratchlm.files.atomic import write_file
from scratchlm.files.paths import StrPath

HELP = '''\
/set NAME VALUE  change how replies are chosen; /set alone shows all
/retry           another reply to the last message
/reset           begin anew; the system text stays
/system TEXT     what stands before the conversation; none removes it, /system alone shows it
/save FILE       write the conversation to a file; /load FILE goes on with one
/quit            or Ctrl-D
Ctrl-C stops a reply. A line that ends with \\ goes on in the next; """ begins and ends a block of
lines. A message that begins with / is written //.'''
ALONE = ("/help", "/retry", "/reset", "/quit")
GO_ON = "An empty line lets the model go on where it stopped."


def greeting(path: StrPath, conversation: Conversation) -> str:
    """What is said before the first message."""
    writer = conversation.writer
    config = writer.model.config
    count = count_parameters(config).total
    size = f"{count / 1e6:,.1f}M" if count >= 1e5 else f"{count:,}"
    device = writer.model.embedding.weight.device
    how = conversation.template.name
    if how == "plain":
        how += " (it continues your text)"
    lines = [
        f"{path}: {size} parameters on {device}, context {config.context_length:,}, template {how}"
    ]
    if conversation.messages:
        lines.append(f"going on after {len(conversation.messages)} messages")
    return "\n".join([*lines, "/help lists the commands; Ctrl-C stops a reply, Ctrl-D quits"])


class Session:
    """One person and one model. stop: strings that end a reply."""

    def __init__(
        self,
        conversation: Conversation,
        settings: Settings,
        terminal: Terminal,
        stop: Sequence[str] = (),
    ) -> None:
        self.conversation = conversation
        self.settings = settings
        self.terminal = terminal
        self.stop = stop
        self.told = False  # that the context is full
        self.over = False
        self.commands: dict[str, Callable[[str], None]] = {
            "/help": self._help,
            "/set": self._set,
            "/retry": self._retry,
            "/reset": self._reset,
            "/system": self._system,
            "/save": self._save,
            "/load": self._load,
            "/quit": self._quit,
        }

    def run(self) -> None:
        """Until /quit, the end of the input, or Ctrl-C twice.

        An error that a user can cause is one line, and the talk goes on. Where nobody types, an
        error and Ctrl-C end it all.
        """
        warned = False
        while not self.over:
            reading = True
            try:
                message, quoted = self.terminal.read_message()
                reading = warned = False
                self._take(message, quoted)
            except EOFError:
                if self.terminal.is_typed:
                    self.terminal.note("")
                return
            except KeyboardInterrupt:
                if not self.terminal.is_typed:
                    raise
                if reading:
                    self.terminal.note("")
                    if warned:
                        return
                    self.terminal.note("Ctrl-C once more, or Ctrl-D, quits")
                warned = reading
            except (BrokenPipeError, Interrupted):
                raise
            except Exception as error:
                if exit_code(error) is None or not self.terminal.is_typed:
                    raise
                self.terminal.note(f"scratchlm: error: {one_line(error)}")

    def set_system(self, text: str) -> None:
        """ValueError for a text that cannot be encoded."""
        self.conversation.writer.tokenizer.encode(text, allowed_special="none")
        self.conversation.system = text

    def _take(self, message: str, quoted: bool) -> None:
        if quoted or not message.startswith("/"):
            self._answer(message)
        elif message.startswith("//"):
            self._answer(message.removeprefix("/"))
        else:
            self._obey(*message.split(maxsplit=1))

    def _obey(self, name: str, argument: str = "") -> None:
        if name not in self.commands:
            close = difflib.get_close_matches(name, self.commands, n=1)
            hint = f"did you mean {close[0]}?" if close else "/help lists them."
            raise ValueError(f"no such command ({name}); {hint} A message is written /{name}")
        if argument and name in ALONE:
            raise ValueError(f"{name} stands alone ({argument}); a message is written /{name}")
        self.commands[name](argument.strip())

    def _answer(self, message: str) -> None:
        goes_on = self.conversation.template.name == "plain" and self.conversation.messages
        if message or goes_on:
            self._write(self.conversation.reply(message, stop=self.stop, **self.settings.how()))

    def _write(self, pieces: Pieces) -> None:
        """A reply to its end, or to Ctrl-C."""
        try:
            with closing(pieces):
                for piece in pieces:
                    self.terminal.write(piece)
        finally:
            self.terminal.end_reply()
        if not self.conversation.complete and not self.told:
            self.terminal.note("(the context is full: the oldest part is no longer read)")
            self.told = True

    def _help(self, _: str) -> None:
        plain = self.conversation.template.name == "plain"
        self.terminal.note(f"{HELP}\n{GO_ON}" if plain else HELP)

    def _set(self, argument: str) -> None:
        name, _, value = argument.partition(" ")
        if not name:
            self.terminal.note(str(self.settings))
        elif not value.strip():
            raise ValueError(f"no value ({name}); write /set {name} VALUE")
        else:
            self.settings.set(name, value.strip())

    def _retry(self, _: str) -> None:
        self._write(self.conversation.retry(stop=self.stop, **self.settings.how()))

    def _reset(self, _: str) -> None:
        self.conversation.reset()
        self.told = False

    def _system(self, argument: str) -> None:
        if not argument:
            self.terminal.note(self.conversation.system or OFF)
        elif argument.lower() == OFF:
            self.conversation.system = None
        else:
            self.set_system(argument)

    def _save(self, argument: str) -> None:
        path = _path(argument, "/save")
        if path.exists() and not is_conversation(path.read_bytes()):
            raise ValueError(f"something else has this name ({path}); name another file")
        write_file(path, self.conversation.to_json().encode())
        self.terminal.note(f"saved: {path}")

    def _load(self, argument: str) -> None:
        path = _path(argument, "/load")
        writer = self.conversation.writer
        self.conversation = Conversation.from_json(writer, path.read_bytes(), path)
        self.told = False
        count = len(self.conversation.messages)
        self.terminal.note(f"{count} messages, template {self.conversation.template.name}")

    def _quit(self, _: str) -> None:
        self.over = True


def _path(argument: str, command: str) -> Path:
    if not argument:
        raise ValueError(f"no file named ({command}); write {command} FILE")
    # A message is UTF-8, and the file system's encoding may be another.
    return Path(os.fsdecode(argument.encode())).expanduser()
