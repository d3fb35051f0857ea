"""The recipe text-to-image on emoji of people, without 200 pairs of a person and a tone of skin.

Each such person is seen in other tones, and each tone on other persons.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence

from visgen_fast.data.images import Images, Part
from visgen_fast.recipes.recipe import Recipe
from visgen_fast.recipes.text_to_image import Settings, system

COUNT, TONES = 200, 5
_TONE = re.compile(r" (medium-light|medium-dark|light|medium|dark) skin tone")
_MOST_OF_A_PERSON = 2


def people(captions: Sequence[str]) -> dict[str, dict[str, int]]:
    """For each person that there is in all five tones, the numbers of its captions by tone; "" is none."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for number, caption in enumerate(captions):
        tones = _TONE.findall(caption)
        if len(tones) < 2:  # of two people with a tone each, neither is the picture's own
            found[_TONE.sub("", caption)]["".join(tones)] = number
    return {person: numbers for person, numbers in found.items() if len(numbers.keys() - {""}) == TONES}


def held_out(captions: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs (person, tone) that are kept from training, at most two of a person: always the same ones."""
    chosen: list[tuple[str, str]] = []
    generator = random.Random(0)
    for person, numbers in people(captions).items():
        chosen += [(person, tone) for tone in generator.sample(sorted(numbers.keys() - {""}), _MOST_OF_A_PERSON)]
    return sorted(generator.sample(chosen, COUNT))


def seen(settings: Settings) -> Images:
    """All pictures of those people but the pairs. Labels are of emoji's list, whose label is the picture's number."""
    captions = settings.images.format.class_names
    known = people(captions)
    kept = {known[person][tone] for person, tone in held_out(captions)}
    return Part(settings.images, sorted({n for numbers in known.values() for n in numbers.values()} - kept))


RECIPE = Recipe(Settings, seen, system)
