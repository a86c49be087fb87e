"""The special token that tokenizers, data and training use when a user names none."""

END_OF_TEXT = "<|endoftext|>"  # GPT-2's: it ends a document
