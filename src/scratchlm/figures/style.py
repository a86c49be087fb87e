"""What every figure needs: matplotlib, and text that its font can show."""

from __future__ import annotations

import importlib.util


def require_matplotlib() -> None:
    """Raise ValueError if matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError(
            "figures need matplotlib (not installed); run pip install 'scratchlm[viz]'"
        )


def visible_text(text: str) -> str:
    """Replace line breaks and tabs with signs that a figure can show.

    Replace characters without a glyph in matplotlib's font with their code points.
    """
    from matplotlib.font_manager import findfont, get_font

    glyphs = get_font(findfont("DejaVu Sans"))
    text = text.replace("\n", "⏎").replace("\t", "⇥")
    return "".join(c if glyphs.get_char_index(ord(c)) else f"\\u{ord(c):x}" for c in text)
