"""The special token that tokenizers, data and training use by default."""

END_OF_TEXT = "<|endoftext|>"  # GPT-2's token for the end of a document
