"""What a prompt and its answers are: text or message lists, roles, transcripts, and the prompt that two answers share.

Pure functions on one row's values. A value that cannot be used raises `BadRow`, whose reason is what drops are counted
under; the detail only stands in the error that `--strict` makes of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.stages.data.reading.strict_json import parse_json
from prefopt.tables.records import Row

Message = Row
Content = str | list[Message]

# names of the speakers in the wild -> the roles of chat templates
ROLES = {
    "system": "system",
    "developer": "developer",
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "bot", "chatbot", "ai", "model", "function_call", "tool_call"),
        "assistant",
    ),
    **dict.fromkeys(
        ("tool", "observation", "function", "function_response", "tool_response", "ipython"), "tool"
    ),
}
# entries that hold a turn of both speakers
TURNS = (("input", "output"), ("user", "assistant"), ("human", "assistant"), ("instruction", "response"))
SPEAKING = ("user", "assistant")  # whose messages must say something; a system or tool message may be empty
# what stands right before an answer in texts that carry their prompt with them
ANSWER_MARKERS = (
    "\n\nAssistant:",
    "\nAssistant:",
    "\nASSISTANT:",
    "### Response:\n",
    "### Response:",
    "### Assistant:",
    "[/INST]",
    "<|im_start|>assistant\n",
    "<|assistant|>\n",
    "<start_of_turn>model\n",
    "<|end_header_id|>\n\n",
    "\nAnswer:",
    "\nA:",
)
_TURN = re.compile(r"\n\n(Human|Assistant):")
_TURN_ROLES = {"Human": "user", "Assistant": "assistant"}


class BadRow(Exception):
    """A row that cannot be used: `reason` is counted, `detail` names the very value."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def content(value: Any, name: str) -> Content:
    """Text as it is, or messages with our roles.

    Raises:
        BadRow: missing, neither text nor messages, an unknown role, or a message that says nothing.
    """
    if value is None:
        raise BadRow(f"{name} is missing")
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return messages([value], name)
    if isinstance(value, list):
        return messages(value, name)
    kind = "true or false" if isinstance(value, bool) else "a number"
    raise BadRow(f"{name} is {kind}, not text or messages", repr(value))


def messages(values: Sequence[Any], name: str) -> list[Message]:
    """Messages in OpenAI (role, content) or ShareGPT (from, value) form as `{role, content, ...}`.

    Raises:
        BadRow: empty list, an entry that is no message, an unknown role, a message without content.
    """
    if not values:
        raise BadRow(f"{name} is an empty message list")
    return [_message(value, name) for turn in values for value in _both_turns(turn)]


def _both_turns(turn: Any) -> list[Any]:
    """An entry that holds a question and its answer (`{input, output}`, `{user, assistant}`) as two messages."""
    if isinstance(turn, dict) and not {"role", "from"} & set(turn):
        for asked, said in TURNS:
            if {asked, said} <= set(turn):
                return [
                    {"role": "user", "content": turn[asked]},
                    {"role": "assistant", "content": turn[said]},
                ]
    return [turn]


def _message(value: Any, name: str) -> Message:
    if not isinstance(value, dict):
        raise BadRow(f"{name} is a list, but not of messages", f"entry {value!r:.60}")
    speaker = value.get("role", value.get("from"))
    role = ROLES.get(speaker.strip().lower()) if isinstance(speaker, str) else None
    if role is None:
        raise BadRow(f"message with an unknown role in {name}", f"role {speaker!r:.60}")
    more = {k: v for k, v in value.items() if k not in {"role", "from", "content", "value"} and v is not None}
    said = value.get("content", value.get("value"))
    if speaker in ("function_call", "tool_call"):
        said, more = _tool_call(said, more)
    if "tool_calls" in more:
        more = _with_objects(more)
    if isinstance(said, list):
        said = _join_parts(said, name)
    if said is None and more.get("tool_calls"):
        return {"role": role, "content": None, **more}
    if not isinstance(said, str):
        raise BadRow(f"message without content in {name}", f"content {said!r:.60}")
    return {"role": role, "content": said, **more}


def _tool_call(said: Any, more: Row) -> tuple[Any, Row]:
    """ShareGPT's function_call holds the call as JSON text; templates want it under tool_calls."""
    try:
        call = parse_json(said, "function_call") if isinstance(said, str) else said
    except PrefoptError:
        return said, more
    calls = call if isinstance(call, list) else [call]
    if not calls or not all(isinstance(c, dict) and isinstance(c.get("name"), str) for c in calls):
        return said, more
    return None, _with_objects({**more, "tool_calls": [{"type": "function", "function": c} for c in calls]})


def _with_objects(more: Row) -> Row:
    """Tool calls with arguments as objects: OpenAI writes them as JSON text, which a template would quote once more."""
    calls = _decoded(more["tool_calls"])
    if not isinstance(calls, list):
        return more
    found = []
    for call in calls:
        inner = call.get("function") if isinstance(call, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get("arguments"), str):
            call = {**call, "function": {**inner, "arguments": _decoded(inner["arguments"])}}
        elif isinstance(call, dict) and isinstance(call.get("arguments"), str):
            call = {**call, "arguments": _decoded(call["arguments"])}
        found.append(call)
    return {**more, "tool_calls": found}


def _decoded(value: Any) -> Any:
    """The object or list that a JSON text holds; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        found = parse_json(value, "tool call")
    except PrefoptError:
        return value
    return found if isinstance(found, dict | list) else value


def _join_parts(parts: list[Any], name: str) -> str:
    texts: list[Any] = [part.get("text") if isinstance(part, dict) else part for part in parts]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise BadRow(f"message content in {name} is not text", "images and audio are not supported")
    return "".join(texts)


def says_nothing(message: Message) -> bool:
    """Whether a user or assistant message is blank (a call of a tool says something)."""
    blank = not (message["content"] or "").strip()
    return blank and message["role"] in SPEAKING and not message.get("tool_calls")


def user(text: str) -> list[Message]:
    """A prompt of one user message."""
    return [{"role": "user", "content": text}]


def answer(text: Content) -> list[Message]:
    """An answer as messages."""
    return [{"role": "assistant", "content": text}] if isinstance(text, str) else text


def split_pair(
    prompt: Content | None, chosen: Content, rejected: Content
) -> tuple[Content, Content, Content]:
    """Prompt and answers in one form: all text, or all messages; a prompt inside the answers is taken out of them.

    Raises:
        BadRow: no common prompt, or answers that do not continue the prompt.
    """
    if prompt is None and isinstance(chosen, str) and isinstance(rejected, str):
        return common_text(chosen, rejected)
    if isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str):
        return prompt, chosen, rejected
    ours, theirs = answer(chosen), answer(rejected)
    starts_over = "assistant" not in (ours[0]["role"], theirs[0]["role"])
    if prompt is None or (isinstance(prompt, str) and starts_over):
        return common_messages(ours, theirs)
    context = user(prompt) if isinstance(prompt, str) else prompt
    if starts_over:
        n = len(context)
        if ours[:n] != context or theirs[:n] != context or len(ours) == n or len(theirs) == n:
            raise BadRow("answers do not continue the prompt")
        ours, theirs = ours[n:], theirs[n:]
    return context, ours, theirs


def common_messages(chosen: list[Message], rejected: list[Message]) -> tuple[Content, Content, Content]:
    """Two conversations -> their common messages as prompt, and the rests, which begin with the assistant.

    Raises:
        BadRow: they share nothing, or part at a message of the user's.
    """
    n = 0
    while n < min(len(chosen), len(rejected)) and chosen[n] == rejected[n]:
        n += 1
    if n and n == len(chosen) == len(rejected):
        raise BadRow("identical answers")
    while n and (n == min(len(chosen), len(rejected)) or chosen[n - 1]["role"] == "assistant"):
        n -= 1  # a shared assistant message belongs to the answers, unless the user replies to it in the prompt
    if not n:
        raise BadRow("chosen and rejected share no prompt")
    return chosen[:n], chosen[n:], rejected[n:]


def common_text(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Two texts -> their common prefix as prompt, cut where an answer can begin, and the two rests.

    The cut is after the last answer marker ("\\n\\nAssistant:", "### Response:", ...) that both share; without any,
    after the last shared line, else before the last shared space.

    Raises:
        BadRow: identical texts, no common prompt, or (transcripts) a turn that is empty, repeated or inside an answer.
    """
    if chosen == rejected:
        raise BadRow("identical answers")
    shared = shared_start(chosen, rejected)
    is_transcript = len(_TURN.findall(shared)) >= 2
    if is_transcript:
        cut = shared.rfind("\n\nAssistant:") + len("\n\nAssistant:")
    else:
        cut = _cut_at_boundary(shared)
    if not shared[:cut].strip():
        raise BadRow("chosen and rejected share no prompt")
    prompt, ours, theirs = shared[:cut], chosen[cut:], rejected[cut:]
    if is_transcript:
        if _TURN.search(ours) or _TURN.search(theirs):
            raise BadRow("another turn inside an answer")
        transcript(prompt)
    return prompt, ours, theirs


def shared_start(first: str, second: str) -> str:
    """What two texts begin with alike."""
    pairs = enumerate(zip(first, second, strict=False))
    return first[: next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))]


def _cut_at_boundary(shared: str) -> int:
    marked = [shared.rfind(marker) + len(marker) for marker in ANSWER_MARKERS if marker in shared]
    if marked:
        return max(marked)
    return shared.rfind("\n") + 1 or max(shared.rfind(" "), 0)


def is_transcript(text: str) -> bool:
    """Whether a text prompt is a "\\n\\nHuman: ...\\n\\nAssistant:" dialogue."""
    return text.startswith("\n\nHuman:") and text.rstrip().endswith("\n\nAssistant:")


def transcript(text: str) -> list[Message]:
    """A "\\n\\nHuman: ...\\n\\nAssistant:" prompt as messages, blanks around each taken off.

    Raises:
        BadRow: an empty turn, or two of one speaker in a row.
    """
    before, *parts = _TURN.split(text)
    turns = [(_TURN_ROLES[name], said.strip()) for name, said in zip(parts[::2], parts[1::2], strict=True)]
    if turns and turns[-1] == ("assistant", ""):
        turns.pop()  # the place of the answer
    if any(not said for _, said in turns):
        raise BadRow("empty turn in a transcript")
    if any(a[0] == b[0] for a, b in pairwise(turns)):
        raise BadRow("two turns of one speaker in a row in a transcript")
    start = [{"role": "system", "content": before.strip()}] if before.strip() else []
    return start + [{"role": role, "content": said} for role, said in turns]


def turns(prompt: Content) -> int:
    """How many user turns a prompt holds; a plain text is one."""
    if isinstance(prompt, str):
        return max(1, prompt.count("\n\nHuman:"))
    return sum(message["role"] == "user" for message in prompt)
