"""Captions from a label and its tags, drawn with a seed."""

from __future__ import annotations

import re
from random import Random

from emoji_pairs.concepts import Concept

CAPTIONS = 64  # a concept
BARE = 0.35  # share of captions that are the label alone
TAGGED = 0.6  # share of the other captions that also name some tags

FRAMES = (
    "{a}",
    "a drawing of {a}",
    "a small drawing of {a}",
    "a colorful drawing of {a}",
    "a simple drawing of {a}",
    "a picture of {a}",
    "a small picture of {a}",
    "an illustration of {a}",
    "a cartoon of {a}",
    "an icon of {a}",
    "a flat icon of {a}",
    "an emoji of {a}",
    "emoji of {a}",
    "a sticker of {a}",
    "clip art of {a}",
)

# Last words of names that take no article: mass nouns, games, adjectives, irregular plurals.
BARE_WORDS = re.compile(
    r"away|bacon|baseball|basketball|bread|broccoli|butter|camping|cooking|coral|dango|"
    r"dizzy|fog|foggy|football|garlic|hockey|ice|lacrosse|locked|luggage|maracas|meat|"
    r"money|o'clock|people|popcorn|racing|rice|sake|salt|shrimp|skis|snow|soap|softball|"
    r"spaghetti|star-struck|sushi|tennis|unlocked|volleyball|water|wood|wrestling|zzz"
)
HEAD_END = re.compile(r" (?:with|of|in|on|over|showing|and|holding|wearing|blowing|behind)\b|[:(,]")
CONSONANT_SOUND = re.compile(r"(uni|use|uk|eu|ewe|one\b|once\b)")
VOWEL_SOUND = re.compile(r"([aeiou]|hour|honest|heir|8|11\b|18|sos\b|ng\b|mri\b|x-ray)")


def name_of(concept: Concept) -> str:
    """The label as people say it, in lower case: "flag: Germany" is "flag of germany"."""
    name = concept.label.lower()
    for prefix in ("flag", "family"):
        name = re.sub(rf"^{prefix}: ", f"{prefix} of ", name)
    return re.sub(r"^keycap: ", "keycap ", name)


def with_article(name: str) -> str:
    """A cow face, an owl; plurals and mass nouns get no article (grapes, french fries, broccoli)."""
    head = HEAD_END.split(name)[0].split()
    last = head[-1] if head else name
    plural = last.endswith("s") and not last.endswith(("ss", "us", "is", "os", "as"))
    if plural or BARE_WORDS.fullmatch(last):
        return name
    vowel = VOWEL_SOUND.match(name) and not CONSONANT_SOUND.match(name)
    return f"{'an' if vowel else 'a'} {name}"


def sentence(concept: Concept, random: Random) -> str:
    """One sentence. TAGGED of them name one to three tags that say more than the label."""
    name = name_of(concept)
    text = random.choice(FRAMES).format(a=with_article(name))
    said = set(re.findall(r"\w+", name))
    tags = [tag for tag in concept.tags if len(tag) > 2 and not said & set(re.findall(r"\w+", tag))]
    if not tags or random.random() >= TAGGED:
        return text
    return ", ".join([text, *random.sample(tags, min(len(tags), random.randint(1, 3)))])


def captions(concept: Concept, seed: int) -> list[str]:
    """CAPTIONS captions, a share of BARE being the label alone; the same for the same concept and seed.

    Sentences are distinct if the concept has enough tags.
    """
    random = Random(f"{seed}/captions/{concept.key}")
    bare = round(CAPTIONS * BARE)
    sentences: list[str] = []
    for _ in range(4 * CAPTIONS):
        if len(sentences) == CAPTIONS - bare:
            break
        if (text := sentence(concept, random)) not in sentences:
            sentences.append(text)
    repeats = CAPTIONS - bare - len(sentences)
    return [name_of(concept)] * bare + sentences + [random.choice(sentences) for _ in range(repeats)]


def caption(concept: Concept, style: str, seed: int) -> str:
    """The caption of a drawing of an evaluation set."""
    return sentence(concept, Random(f"{seed}/caption/{concept.key}/{style}"))
