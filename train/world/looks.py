"""How a picture shows its subject: the words of each property that every subject shares, and their frequencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# Each word with its frequency. The words are what a completed prompt says, in the order of ORDER.
SIZES = {"small": 0.25, "medium size": 0.3, "large": 0.45}
TILTS = {"upright": 0.8, "tilted left": 0.1, "tilted right": 0.1}
FACINGS = {"facing left": 0.5, "facing right": 0.5}
OUTLINES = {"no outline": 0.75, "sticker outline": 0.25}
LIGHTS = {"plain light": 0.82, "warm light": 0.06, "cool light": 0.06, "dim light": 0.06}
NATURAL = "natural colors"
PAINTS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black")
COLORS = {NATURAL: 0.73, **dict.fromkeys(PAINTS, 0.03)}
ARRANGEMENTS = {"side by side": 0.6, "one above the other": 0.4}

# Backgrounds: white, a color, or a pattern of a color on white.
GROUNDS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "gray", "black")
PATTERNS = ("dots", "stripes", "checks")
BACKGROUNDS = {
    "on white": 0.5,
    **{f"on {color}": 0.3 / len(GROUNDS) for color in GROUNDS},
    **{f"on {color} {pattern}": 0.2 / len(GROUNDS) / len(PATTERNS) for color in GROUNDS for pattern in PATTERNS},
}

# The order in which open properties are drawn and said.
ORDER = (
    "thing",
    "gender",
    "style",
    "expression",
    "hair",
    "hair color",
    "beard",
    "wearing",
    "earrings",
    "skin",
    "garment",
    "clothes",
    "colors",
    "arrangement",
    "facing",
    "size",
    "tilt",
    "outline",
    "light",
    "background",
)

# Words after which a prompt says no more of its subject.
ENDS = ("with", "wearing", "in", "on", "at", "facing", "looking", "holding", "from", "under", "style")

# Further words of a prompt, by property: word of the picture -> what people say for it.
SAID: Mapping[str, Mapping[str, Sequence[str]]] = {
    "size": {
        "small": ("little", "tiny"),
        "medium size": ("medium sized",),
        "large": ("big", "huge"),
    },
    "tilt": {"tilted left": ("leaning left",), "tilted right": ("leaning right",)},
    "facing": {
        "facing left": ("looking left", "turned left"),
        "facing right": ("looking right", "turned right"),
    },
    "outline": {"sticker outline": ("white outline", "white border", "die cut")},
    "light": {"warm light": ("warm lighting",), "cool light": ("cool lighting",), "dim light": ("dark lighting",)},
    "colors": {color: (f"{color} colored",) for color in PAINTS},
    "arrangement": {
        "side by side": ("next to", "beside", "left of"),
        "one above the other": ("above", "on top of", "over"),
    },
    "background": {
        "on white": ("white background", "on a white background"),
        **{f"on {color}": (f"{color} background", f"on a {color} background") for color in GROUNDS},
        **{
            f"on {color} {pattern}": (f"{color} {pattern} background", f"background of {color} {pattern}")
            for color in GROUNDS
            for pattern in PATTERNS
        },
    },
    "gender": {"man": ("male", "boy"), "woman": ("female", "girl"), "person": ("neutral",)},
    "expression": {
        "smiling": ("smile", "happy"),
        "laughing": ("laugh",),
        "grinning": ("grin",),
        "sad": ("unhappy",),
        "angry": ("mad",),
    },
    "hair": {"bald": ("no hair",)},
    "beard": {"no beard": ("clean shaven",), "beard": ("bearded",), "mustache": ("moustache",)},
    "wearing": {"glasses": ("eyeglasses",), "no glasses": ("without glasses",)},
    "skin": {"light skin": ("pale skin",)},
}

# Words of a prompt that say a property for which the world has no word: it is not drawn against them.
SETTLING: Mapping[str, Sequence[str]] = {
    "colors": (
        *("white", "gray", "grey", "silver", "gold", "golden", "beige", "cream", "tan", "turquoise", "teal", "cyan"),
        *(
            "magenta",
            "violet",
            "lilac",
            "lavender",
            "crimson",
            "scarlet",
            "maroon",
            "navy",
            "lime",
            "rainbow",
            "pastel",
        ),
        *("colorful", "colourful", "multicolored", "multicoloured", "neon", "pale", "transparent"),
    ),
    "facing": (
        *("left facing", "right facing", "facing forward", "facing the viewer", "facing you", "front view"),
        *("from the front", "from behind", "from above", "side view", "back view", "in profile"),
    ),
    "size": ("giant", "gigantic", "enormous", "massive", "miniature", "mini", "close up", "closeup", "full body"),
    "tilt": ("tilted", "leaning", "upside down", "lying", "rotated", "diagonal"),
    "light": (
        *("at night", "night", "at sunset", "sunset", "at dawn", "in the dark", "bright light", "neon"),
        *("glowing", "backlit", "in shadow"),
    ),
    "outline": ("outline", "outlined", "border", "with a border", "without border", "no border", "die cut sticker"),
    "background": (
        *(
            "background",
            "no background",
            "transparent",
            "at night",
            "in space",
            "underwater",
            "on grass",
            "in the snow",
        ),
        *("on a beach", "in a forest", "in the sky", "in a field", "in a city"),
    ),
    "style": (
        *("style", "photo", "photograph", "photorealistic", "realistic", "drawing", "sketch", "painting", "watercolor"),
        *("watercolour", "oil painting", "pixel art", "pixelated", "anime", "manga", "line art", "clip art", "render"),
        *("3d", "2d", "cartoon", "comic", "glossy", "flat design"),
    ),
    "hair color": ("ginger", "redhead", "auburn", "white haired", "gray haired", "grey haired", "dark haired"),
    "expression": ("crying", "serious", "neutral", "scared", "tired", "sleepy", "bored", "confused", "proud", "shy"),
}
