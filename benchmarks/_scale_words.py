"""Text as it stands on invoices, slides and signs: a vocabulary with German compounds, drawn by Zipf's law."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Ints = npt.NDArray[np.int64]

_FRONT = """
    Rechnungs Auftrags Kunden Liefer Bremsen Wetter Haus Garten Straßen Schul Bahnhofs Kranken Versicherungs Steuer
    Sommer Winter Küchen Bürger Müll Wasser Strom Gas Öl Fahrrad Flug See Berg Stadt Land Kinder Hunde Musik Foto Film
    Büro Daten Netz Arbeits Urlaubs Familien Geburtstags Jahres Monats Tages Grund Miet Kauf Bank Post Zeitungs Buch
    Sport Fußball Ski Turn Prüfungs Sicherheits Feuer Not Rettungs
"""
_BACK = """
    nummer datum betrag adresse schein plan karte bericht vertrag amt haus platz weg straße brücke schule lehrer
    wagen halle markt fest feier gerät pumpe leitung flüssigkeit anlage steuerung prüfung ordnung akte liste mappe
    stelle zeit raum tür fenster dach kosten gebühr quittung bestellung lieferung rückgabe garantie werkstatt
    versicherung verein mannschaft spiel reise fahrt ankunft abfahrt
"""
_PLAIN = """
    die der und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er hat dass
    sie nach wird bei einer um am sind noch wie einem über einen so zum war haben nur oder aber vor zur bis mehr durch
    the of to and a in is it you that he was for on are with as his they be at one have this from or had by hot word
    total page date number open closed exit entrance invoice summary quarter figures report meeting agenda budget
    Hamburg München Köln Lübeck Müller Schmidt Weber Schäfer Großmann beach dog sunset birthday wedding train station
"""

WORDS = np.array([*_PLAIN.split(), *(front + back for front in _FRONT.split() for back in _BACK.split())])
_PLAIN_WORDS = len(_PLAIN.split())
_ZIPF = 1.0 / (np.arange(len(WORDS)) + 2.7)
_CUMULATIVE = np.cumsum(_ZIPF / _ZIPF.sum())
_VOCABULARY = pa.array(WORDS.tolist(), pa.string())
_NUMBERED = 0.05  # lines that end in a number of their own


def lines(rng: np.random.Generator, count: int) -> pa.Array:
    """So many lines of three to seven words."""
    lengths = rng.integers(3, 8, count)
    picks = np.searchsorted(_CUMULATIVE, rng.random(int(lengths.sum()))).clip(max=len(WORDS) - 1)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    text = pc.binary_join(pa.ListArray.from_arrays(offsets, _VOCABULARY.take(pa.array(picks))), " ")
    numbers = pc.cast(pa.array(rng.integers(10_000, 9_999_999, count)), pa.string())
    return pc.if_else(pa.array(rng.random(count) < _NUMBERED), pc.binary_join_element_wise(text, numbers, " "), text)


def joined(texts: pa.Array, sizes: Ints) -> pa.Array:
    """Consecutive texts, so many at a time, one below the other."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int32())
    return pc.binary_join(pa.ListArray.from_arrays(offsets, texts), "\n")


def questions(rng: np.random.Generator, count: int) -> list[str]:
    """What people type: one to three words, the telling ones as often as the common ones."""
    telling = WORDS[_PLAIN_WORDS:]
    common = WORDS[60:_PLAIN_WORDS]
    found = []
    for n in range(count):
        words = [str(rng.choice(telling if n % 2 else common))]
        words += [str(rng.choice(telling)) for _ in range(int(rng.integers(0, 3)))]
        found.append(" ".join(words))
    return found
