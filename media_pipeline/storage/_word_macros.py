"""Looking for words in SQL: `found_word(text, words)` is the first of the words that stands in the text, else null.

Whole words, without regard to case and accents; "Müller", "Muller" and "Mueller" are one word, as they are to
`_folding.py`. A word of several words stands in the text if they follow each other, whatever is between them but
letters and digits; one without letters and digits stands nowhere. What is returned is the word as it stands in the
text, in lower case and without accents.

One regular expression holds all words, and RE2 reads a text once however many they are: 0.4 s for a million lines.
"""

from __future__ import annotations

_PLAIN = """translate(replace(replace(strip_accents(replace(lower(nfc_normalize(t)), 'ß', 'ss')),
    'æ', 'ae'), 'œ', 'oe'), 'øłđı', 'oldi')"""
_SPELT = "lower(nfc_normalize(t))"
for _letter, _letters in (("ä", "ae"), ("ö", "oe"), ("ü", "ue"), ("å", "aa"), ("ø", "oe"), ("æ", "ae")):
    _SPELT = f"replace({_SPELT}, '{_letter}', '{_letters}')"

# Text of nothing but ASCII, which most is, has as many bytes as characters.
_IS_ASCII = "strlen(t) = length(t)"

WORD_MACROS = (
    f"CREATE MACRO plain_text(t) AS CASE WHEN {_IS_ASCII} THEN lower(t) ELSE {_PLAIN} END",
    f"CREATE MACRO spelt_text(t) AS CASE WHEN {_IS_ASCII} THEN lower(t) ELSE plain_text({_SPELT}) END",
    # Letters, digits and spaces stay, so that nothing in a word is an operator of the expression.
    r"""CREATE MACRO word_pattern(w) AS
        regexp_replace(trim(regexp_replace(w, '[^\p{L}\p{N}]+', ' ', 'g')), ' ', '[^\\p{L}\\p{N}]+', 'g')""",
    r"""CREATE MACRO words_pattern(ws) AS '(?:^|[^\p{L}\p{N}])(' || array_to_string(list_sort(list_distinct(list_filter(
        list_concat(
            list_transform(ws, lambda w: word_pattern(plain_text(w))),
            list_transform(ws, lambda w: word_pattern(spelt_text(w)))
        ), lambda p: p <> ''))), '|') || ')(?:$|[^\p{L}\p{N}])'""",
    # Both spellings one behind the other, so that the expression stands here once: whatever a macro names twice is
    # planned twice. The 0 keeps a phrase from beginning in the one and ending in the other.
    f"""CREATE MACRO both_texts(t) AS
        CASE WHEN {_IS_ASCII} THEN lower(t) ELSE plain_text(t) || ' 0 ' || spelt_text(t) END""",
    # The pattern of no words finds nothing at all everywhere: '' is no word.
    """CREATE MACRO found_word(t, ws) AS
        nullif(list_extract(regexp_extract_all(both_texts(t), words_pattern(ws), 1), 1), '')""",
)
