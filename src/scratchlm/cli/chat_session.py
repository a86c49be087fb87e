"""The loop of `scratchlm-chat`: it reads messages and commands, and writes replies."""

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
/set NAME VALUE  change a setting of generation; /set alone shows all settings
/retry           write another reply to the last message
/reset           start a new conversation; keep the system text
/system TEXT     set the system text; none removes it; /system alone shows it
/save FILE       write the conversation to a file; /load FILE continues that conversation
/quit            end the chat; Ctrl-D does the same
Ctrl-C stops a reply. A line that ends with \\ continues on the next line. """ begins and ends a
block of lines. To begin a message with /, write //.'''
ALONE = ("/help", "/retry", "/reset", "/quit")
GO_ON = "After an empty line, the model continues where it stopped."


def greeting(path: StrPath, conversation: Conversation) -> str:
    """Return the lines that the chat prints before the first message."""
    writer = conversation.writer
    config = writer.model.config
    count = count_parameters(config).total
    size = f"{count / 1e6:,.1f}M" if count >= 1e5 else f"{count:,}"
    device = writer.model.embedding.weight.device
    how = conversation.template.name
    if how == "plain":
        how += " (the model continues your text)"
    lines = [
        f"{path}: {size} parameters on {device}, context {config.context_length:,}, template {how}"
    ]
    if conversation.messages:
        lines.append(f"the chat continues after {len(conversation.messages)} messages")
    return "\n".join([*lines, "/help lists the commands; Ctrl-C stops a reply, Ctrl-D quits"])


class Session:
    """A chat of one person with one model. `stop`: strings that end a reply."""

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
        self.told = False  # whether the chat has printed that the context is full
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
        """Run the chat until /quit, the end of the input, or two presses of Ctrl-C.

        If a person types the messages, the chat prints an error in one line and continues. This is
        true for errors that a user can cause. Otherwise the first error or Ctrl-C ends the chat.
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
                    self.terminal.note("press Ctrl-C again, or Ctrl-D, to quit")
                warned = reading
            except (BrokenPipeError, Interrupted):
                raise
            except Exception as error:
                if exit_code(error) is None or not self.terminal.is_typed:
                    raise
                self.terminal.note(f"scratchlm: error: {one_line(error)}")

    def set_system(self, text: str) -> None:
        """Set the system text. Raise ValueError for a text that cannot be encoded."""
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
            hint = f"did you mean {close[0]}?" if close else "/help lists the commands."
            raise ValueError(
                f"no such command ({name}); {hint} To send this message, write /{name}"
            )
        if argument and name in ALONE:
            raise ValueError(
                f"{name} must have no argument ({argument}); to send this message, write /{name}"
            )
        self.commands[name](argument.strip())

    def _answer(self, message: str) -> None:
        goes_on = self.conversation.template.name == "plain" and self.conversation.messages
        if message or goes_on:
            self._write(self.conversation.reply(message, stop=self.stop, **self.settings.how()))

    def _write(self, pieces: Pieces) -> None:
        """Write a reply to its end, or until Ctrl-C."""
        try:
            with closing(pieces):
                for piece in pieces:
                    self.terminal.write(piece)
        finally:
            self.terminal.end_reply()
        if not self.conversation.complete and not self.told:
            self.terminal.note("(the context is full: the model no longer reads the oldest part)")
            self.told = True

    def _help(self, _: str) -> None:
        plain = self.conversation.template.name == "plain"
        self.terminal.note(f"{HELP}\n{GO_ON}" if plain else HELP)

    def _set(self, argument: str) -> None:
        name, _, value = argument.partition(" ")
        if not name:
            self.terminal.note(str(self.settings))
        elif not value.strip():
            raise ValueError(f"/set needs a value ({name}); write /set {name} VALUE")
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
            raise ValueError(
                f"the file exists and is not a conversation ({path}); choose another file"
            )
        write_file(path, self.conversation.to_json().encode())
        self.terminal.note(f"saved: {path}")

    def _load(self, argument: str) -> None:
        path = _path(argument, "/load")
        writer = self.conversation.writer
        self.conversation = Conversation.from_json(writer, path.read_bytes(), path)
        self.told = False
        count = len(self.conversation.messages)
        self.terminal.note(f"loaded: {count} messages, template {self.conversation.template.name}")

    def _quit(self, _: str) -> None:
        self.over = True


def _path(argument: str, command: str) -> Path:
    if not argument:
        raise ValueError(f"the command needs a file ({command}); write {command} FILE")
    # A message is UTF-8. The file system's encoding may differ.
    return Path(os.fsdecode(argument.encode())).expanduser()
