"""What unrelated texts look like to a model: the measure of whether a passage answers a query at all.

A cosine means nothing by itself. all-MiniLM-L6-v2 gives unrelated English texts 0.0 to 0.2 and unrelated German ones
0.2 to 0.5, because to an English model they are first of all German; E5 gives everything 0.7 and more. So each query
is first compared with the everyday texts below, and a passage counts only where it is clearly nearer than those.
The sentences are about many things, so that one that happens to fit the query does not matter. Queries of one rare word
are near to anything short, so there is a group of fragments too; with it, "Tesseract" no longer finds "COMO HOPPER".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

# Standard deviations above the mean of the background, chosen with all-MiniLM-L6-v2 on the sentences of the tests:
# English paraphrases found, unrelated hits per query, and how many of 19 unanswerable queries got a hit.
# 2.0: 94 %, 0.22, 4 - 2.5: 94 %, 0.17, 2 - 3.0: 89 %, 0.06, 1 - 3.5: 89 %, 0.06, 1.
# German paraphrases are found with none of these: see `results/search.py`.
DEVIATIONS = 3.0
LEAST_COSINE = 0.25  # what the background cannot see: a query that is far from everything

ENGLISH = (
    "The meeting was moved to Tuesday afternoon.",
    "Please fill in the form in block capitals.",
    "He painted the fence green over the weekend.",
    "The museum is closed on Mondays.",
    "Turn left at the second traffic light.",
    "My grandmother collects old postage stamps.",
    "The soup needs a little more salt.",
    "Figure three shows the number of visitors per year.",
    "The cat is sleeping on the sofa.",
    "We ran out of printer paper again.",
    "Light travels faster than sound.",
    "The new shoes hurt after a short walk.",
    "Thank you for listening, are there any questions?",
    "A thick fog covered the valley in the morning.",
    "The library has bought two hundred novels.",
    "Press the red button to stop the machine.",
    "His brother works as a carpenter in a small town.",
    "The river is two hundred kilometres long.",
    "Apples and pears are sold by weight.",
    "The film was longer than I had expected.",
    "Chapter four describes the structure of the cell.",
    "She forgot her umbrella on the bus.",
    "The company was founded by two friends.",
    "Water the plants twice a week in summer.",
)
GERMAN = (
    "Die Besprechung wurde auf Dienstagnachmittag verschoben.",
    "Bitte füllen Sie das Formular in Druckbuchstaben aus.",
    "Er hat am Wochenende den Zaun grün gestrichen.",
    "Das Museum ist montags geschlossen.",
    "Biegen Sie an der zweiten Ampel links ab.",
    "Meine Großmutter sammelt alte Briefmarken.",
    "Die Suppe braucht noch etwas Salz.",
    "Abbildung drei zeigt die Zahl der Besucher pro Jahr.",
    "Die Katze schläft auf dem Sofa.",
    "Wir haben schon wieder kein Druckerpapier.",
    "Licht ist schneller als Schall.",
    "Die neuen Schuhe drücken nach einem kurzen Spaziergang.",
    "Vielen Dank fürs Zuhören, gibt es Fragen?",
    "Am Morgen lag dichter Nebel über dem Tal.",
    "Die Bücherei hat zweihundert Romane gekauft.",
    "Drücken Sie den roten Knopf, um die Maschine anzuhalten.",
    "Sein Bruder arbeitet als Schreiner in einer Kleinstadt.",
    "Der Fluss ist zweihundert Kilometer lang.",
    "Äpfel und Birnen werden nach Gewicht verkauft.",
    "Der Film war länger, als ich erwartet hatte.",
    "Kapitel vier beschreibt den Aufbau der Zelle.",
    "Sie hat ihren Regenschirm im Bus vergessen.",
    "Die Firma wurde von zwei Freunden gegründet.",
    "Gießen Sie die Pflanzen im Sommer zweimal pro Woche.",
)

# What reading a picture brings up: signs, names, headings, and letters that are none.
FRAGMENTS = (
    "PAGE 3 OF 12",
    "*** KL 400 ***",
    "Notes",
    "MODEL B",
    "John Carter",
    "EXIT",
    "RLTO FAN OE",
    "Figure 2",
    "Schmidt & Partner",
    "OPEN",
    "Seite 7",
    "A1 B2 C3",
    "NORTH STREET",
    "tlie qnick hrown",
    "www.example.com",
    "Kapitel 5",
    "NEW!",
    "FIL EDI VIE",
    "Hotel Adler",
    "12:45 Uhr",
    "Sample text",
    "iOl lI1 |I",
    "THE END",
    "Ausgang",
)


class Background:
    """The everyday texts, as one model sees them.

    Args:
        encode: texts to L2-normalised vectors, shape (n, dimension)
    """

    def __init__(self, encode: Callable[[Sequence[str]], Vectors]) -> None:
        self._groups = [encode(texts) for texts in (ENGLISH, GERMAN, FRAGMENTS)]

    def floor(self, query: Vectors) -> float:
        """The cosine from which a passage answers the query (shape (dimension,), L2-normalised)."""
        floors = []
        for vectors in self._groups:
            cosines = vectors @ query
            floors.append(float(cosines.mean() + DEVIATIONS * cosines.std()))
        return max(LEAST_COSINE, *floors)
