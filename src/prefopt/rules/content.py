"""Length, emptiness and equality of an answer or prompt, which is text or a message list."""

from __future__ import annotations

from typing import Any


def text_of(content: Any) -> str:
    """The words of an answer: the text itself, or the contents of its messages, one per line; None gives ''."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "\n".join(str(message.get("content") or "") for message in content)


def prompt_words(prompt: Any) -> str:
    """What prompts that ask the same have in common: the words of all turns but the system's, in small letters, spaces as one."""
    said = prompt if isinstance(prompt, str) else [turn for turn in prompt if turn.get("role") != "system"]
    return " ".join(text_of(said).casefold().split())


def is_empty(content: Any) -> bool:
    """No words but spaces, and no tool call."""
    if isinstance(content, list) and any(message.get("tool_calls") for message in content):
        return False
    return not text_of(content).strip()


def same(one: Any, other: Any) -> bool:
    """Equal answers: texts up to surrounding space, message lists exactly."""
    if isinstance(one, str) and isinstance(other, str):
        return one.strip() == other.strip()
    return bool(one == other)
