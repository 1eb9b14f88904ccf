"""The 25 kinds of constraints of IFEval (Zhou et al., 2311.07911, table 1 and appendix), each a function of the answer.

Written after the paper's descriptions. A kind is one function, its arguments by keyword as in the data files, and one row
of `KINDS`. Counting words, letters and capital letters knows two relations: "at least" and "less than".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Literal

from prefopt.verify.constraints.texts import (
    bullets,
    capital_words,
    divided,
    highlights,
    language,
    sentences,
    words,
)

Relation = Literal["at least", "less than"]
YES_NO = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_FENCE = re.compile(r"\A```(?:json)?(.*?)(?:```)?\Z", re.DOTALL | re.IGNORECASE)


def _holds(count: int, relation: Relation, wanted: int) -> bool:
    return count >= wanted if relation == "at least" else count < wanted


def _occurrences(text: str, part: str) -> int:
    """How often a part stands in a text, in any case, also within words."""
    return len(re.findall(re.escape(part), text, re.IGNORECASE))


# ---- keywords


def existence(text: str, *, keywords: list[str]) -> bool:
    """Every keyword appears, in any case."""
    return all(_occurrences(text, keyword) for keyword in keywords)


def frequency(text: str, *, keyword: str, frequency: int, relation: Relation = "at least") -> bool:
    """The keyword appears at least, or less than, so many times."""
    return _holds(_occurrences(text, keyword), relation, frequency)


def forbidden_words(text: str, *, forbidden_words: list[str]) -> bool:
    """None of the words appears as a whole word, in any case."""
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words)


def letter_frequency(
    text: str, *, letter: str, let_frequency: int, let_relation: Relation = "at least"
) -> bool:
    """The letter (any character) appears at least, or less than, so many times, in any case."""
    return _holds(text.lower().count(letter.lower()), let_relation, let_frequency)


# ---- language and case


def response_language(text: str, *, language: str) -> bool:
    """The whole answer is in the language (ISO 639-1); a text without words has none and passes."""
    return _speaks(text, language)


def _speaks(text: str, wanted: str) -> bool:
    found = language(text)
    return found is None or found == wanted


def english_capital(text: str) -> bool:
    """English, in capital letters alone."""
    return text.isupper() and _speaks(text, "en")


def english_lowercase(text: str) -> bool:
    """English, in small letters alone."""
    return text.islower() and _speaks(text, "en")


def capital_word_frequency(
    text: str, *, capital_frequency: int, capital_relation: Relation = "at least"
) -> bool:
    """At least, or less than, so many words in capital letters."""
    return _holds(capital_words(text), capital_relation, capital_frequency)


# ---- length


def number_paragraphs(text: str, *, num_paragraphs: int) -> bool:
    """Exactly so many paragraphs, with the divider *** between them."""
    found = divided(text, "***")
    return found is not None and len(found) == num_paragraphs


def number_words(text: str, *, num_words: int, relation: Relation = "at least") -> bool:
    """At least, or less than, so many words."""
    return _holds(len(words(text)), relation, num_words)


def number_sentences(text: str, *, num_sentences: int, relation: Relation = "at least") -> bool:
    """At least, or less than, so many sentences."""
    return _holds(len(sentences(text)), relation, num_sentences)


def nth_paragraph_first_word(text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """So many paragraphs with two line breaks between them, of which the n-th starts with the word.

    Empty paragraphs are not counted, but have a number.
    """
    parts = [part.strip() for part in text.split("\n\n")]
    if sum(map(bool, parts)) != num_paragraphs or not 1 <= nth_paragraph <= num_paragraphs:
        return False
    begins = parts[nth_paragraph - 1].split()
    if not begins:
        return False
    found = re.split(r"[.,?!'\"]", begins[0].lstrip("'").lstrip('"'))[0]
    return found.lower() == first_word.lower()


# ---- content


def postscript(text: str, *, postscript_marker: str) -> bool:
    """A postscript that starts with the marker stands somewhere; P.S. and P.P.S in any case, with or without blanks."""
    letters = [part for part in postscript_marker.strip().split(".") if part.strip()]
    if postscript_marker.upper().startswith("P."):
        pattern = r"\.\s?".join(re.escape(part.strip()) for part in letters)
        pattern += r"\." if postscript_marker.strip().endswith(".") else ""
    else:
        pattern = re.escape(postscript_marker.strip())
    return re.search(pattern, text, re.IGNORECASE) is not None


def number_placeholders(text: str, *, num_placeholders: int) -> bool:
    """At least so many placeholders in square brackets, such as [address]."""
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


# ---- format


def number_bullet_lists(text: str, *, num_bullets: int) -> bool:
    """Exactly so many bullet points in Markdown."""
    return bullets(text) == num_bullets


def title(text: str) -> bool:
    """A title in double angular brackets on one line, such as <<poem of joy>>."""
    return any(found.strip("<> \t") for found in re.findall(r"<<([^\n]+)>>", text))


def constrained_response(text: str) -> bool:
    """One of the three answers stands in it: my answer is yes, no, or maybe."""
    return any(option in text for option in YES_NO)


def number_highlighted_sections(text: str, *, num_highlights: int) -> bool:
    """At least so many parts highlighted with *asterisks*."""
    return highlights(text) >= num_highlights


def multiple_sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    """At least so many sections, each begun by the word and a number, such as SECTION 1."""
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", text)) >= num_sections


def json_format(text: str) -> bool:
    """The whole answer is JSON, perhaps in a fence of Markdown."""
    found = _FENCE.match(text.strip())
    try:
        json.loads((found[1] if found else text).strip())
    except (ValueError, RecursionError):
        return False
    return True


# ---- combinations, start and end, punctuation


def repeat_prompt(text: str, *, prompt_to_repeat: str) -> bool:
    """The answer begins with the request, word for word, in any case."""
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def two_responses(text: str) -> bool:
    """Two different answers with ****** between them."""
    found = divided(text, "******")
    return found is not None and len(found) == 2 and found[0] != found[1]


def end_checker(text: str, *, end_phrase: str) -> bool:
    """The answer ends with the phrase, in any case; a closing quotation mark may follow."""
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(text: str) -> bool:
    """The whole answer stands in double quotation marks."""
    bare = text.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


def no_comma(text: str) -> bool:
    """No comma anywhere."""
    return "," not in text


KINDS: dict[str, Callable[..., bool]] = {
    "keywords:existence": existence,
    "keywords:frequency": frequency,
    "keywords:forbidden_words": forbidden_words,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": response_language,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:number_words": number_words,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": number_highlighted_sections,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:json_format": json_format,
    "detectable_format:title": title,
    "combination:two_responses": two_responses,
    "combination:repeat_prompt": repeat_prompt,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
    "change_case:capital_word_frequency": capital_word_frequency,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "punctuation:no_comma": no_comma,
}
# kinds that ask a package for the language of a text
SPOKEN = ("language:response_language", "change_case:english_capital", "change_case:english_lowercase")
Constraint = dict[str, Any]  # {"id": one of KINDS, "kwargs": {...}}
