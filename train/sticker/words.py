"""English for captions: articles, plurals, colour words."""

from __future__ import annotations

import re

# Hue in degrees, saturation and value in [0, 1] of what each word calls to mind.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0, 0.85, 0.85),
    "orange": (26, 0.85, 0.97),
    "yellow": (49, 0.8, 0.98),
    "green": (125, 0.65, 0.7),
    "blue": (214, 0.75, 0.88),
    "purple": (272, 0.6, 0.75),
    "pink": (334, 0.45, 0.98),
    "brown": (22, 0.6, 0.5),
    "black": (230, 0.12, 0.2),
}
COLOUR_WORDS = {*COLOURS, "white", "gray", "grey"}
# What people say instead of a catalogue's label.
SPOKEN = {
    "automobile": "car",
    "sport utility vehicle": "car",
    "deciduous tree": "tree",
    "evergreen tree": "tree",
    "delivery truck": "truck",
    "doughnut": "donut",
    "hot beverage": "cup of coffee",
    "wrapped gift": "gift",
    "snowman without snow": "snowman",
    "soft ice cream": "ice cream cone",
    "steaming bowl": "bowl of noodles",
    "jack-o-lantern": "pumpkin",
    "cheese wedge": "piece of cheese",
    "lady beetle": "ladybug",
    "ear of corn": "corn",
    "poultry leg": "chicken leg",
    "cooked rice": "bowl of rice",
    "green salad": "salad",
    "beverage box": "juice box",
    "cut of meat": "steak",
    "two-hump camel": "camel",
    "spouting whale": "whale",
    "gem stone": "diamond",
    "ringed planet": "planet",
    "musical keyboard": "piano",
    "flying saucer": "ufo",
    "saxophone": "sax",
    "house with garden": "house",
    "small airplane": "plane",
    "airplane": "plane",
    "motor boat": "boat",
    "sailboat": "boat",
    "passenger ship": "ship",
    "locomotive": "train",
    "old key": "key",
    "trophy": "cup",
}
NUMBERS = {2: "two", 3: "three", 4: "four"}
_IRREGULAR = {
    "mouse": "mice",
    "goose": "geese",
    "person": "people",
    "man": "men",
    "woman": "women",
    "foot": "feet",
    "tooth": "teeth",
    "leaf": "leaves",
    "wolf": "wolves",
    "knife": "knives",
    "loaf": "loaves",
    "child": "children",
    "ox": "oxen",
    "cactus": "cacti",
    "scarf": "scarves",
}
_PLURALS = frozenset(_IRREGULAR.values())
_UNCHANGED = {
    "sheep",
    "fish",
    "deer",
    "shrimp",
    "squid",
    "bison",
    "moose",
    "sushi",
    "bread",
    "broccoli",
    "corn",
    "popcorn",
    "rice",
    "bacon",
}
_SINGULAR_S = {"canvas", "compass", "lens", "tennis", "pancreas"}
_WITH_O = {"potato", "tomato", "mango", "volcano", "mosquito"}


def article(noun: str) -> str:
    return "an" if noun[:1] in "aeiou" and not noun.startswith(("uni", "euro", "ewe", "one-", "ufo")) else "a"


def with_article(noun: str) -> str:
    """'a fox', 'an owl'; 'grapes' and 'chopsticks' as they are."""
    return noun if is_plural(noun) else f"{article(noun)} {noun}"


def is_plural(noun: str) -> bool:
    head = _split_head(noun)[0]
    if head.rpartition(" ")[2] in _PLURALS:
        return True
    return head.endswith("s") and not head.endswith(("ss", "us", "is")) and head not in _SINGULAR_S


def spoken(noun: str) -> str:
    """'cat face' -> 'cat', 'automobile' -> 'car': what one calls it in a sentence."""
    short = noun.removesuffix(" face") if len(noun.split()) == 2 else noun
    return SPOKEN.get(short, short)


def plural(noun: str) -> str:
    """'cat face' -> 'cat faces', 'slice of pizza' -> 'slices of pizza': the head comes before 'of' and the like."""
    head, rest = _split_head(noun)
    before, _, last = head.rpartition(" ")
    return " ".join(part for part in (before, _plural_word(last), rest) if part)


def without_colour(noun: str) -> str:
    """'red apple' -> 'apple'; '' where nothing but a colour is left."""
    return " ".join(word for word in noun.split() if word not in COLOUR_WORDS)


def _split_head(noun: str) -> tuple[str, str]:
    found = re.search(r" (of|with|without|in|on|and) ", noun)
    return (noun[: found.start()], noun[found.start() + 1 :]) if found else (noun, "")


def _plural_word(word: str) -> str:
    if word in _UNCHANGED:
        return word
    for singular, many in _IRREGULAR.items():
        if word == singular or (len(singular) > 3 and word.endswith(singular)):
            return word.removesuffix(singular) + many
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    if re.search(r"(s|x|z|ch|sh)$", word) or word in _WITH_O:
        return word + "es"
    return word + "s"
