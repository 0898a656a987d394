"""The alignment heads that OpenAI published for its models; its .pt files do not hold them."""

Pairs = tuple[tuple[int, int], ...]

# Of each model, layer: heads, both from 0.
_HEADS: dict[str, dict[int, tuple[int, ...]]] = {
    "tiny.en": {1: (0,), 2: (0, 5), 3: (0, 1, 2, 3, 4)},
    "tiny": {2: (2,), 3: (0, 2, 3, 4, 5)},
    "base.en": {3: (3,), 4: (7,), 5: (1, 5, 7)},
    "base": {3: (1,), 4: (2, 3, 7), 5: (1, 2, 4, 6)},
    "small.en": {
        6: (6,), 7: (0, 3, 8), 8: (2, 5, 7), 9: (0, 4, 8, 10), 10: (0, 1, 2, 3, 6, 11), 11: (2, 4),
    },
    "small": {5: (3, 9), 8: (0, 4, 7, 8), 9: (0, 7, 9), 10: (5,)},
    "medium.en": {
        11: (4,), 14: (1, 12, 14), 15: (4,), 16: (0, 4, 9), 17: (12, 14), 18: (7, 10, 15),
        20: (0, 3, 9, 14), 21: (12,),
    },
    "medium": {13: (15,), 15: (4, 15), 16: (1,), 20: (0,), 23: (4,)},
    "large-v1": {9: (19,), 11: (2, 4, 17), 22: (7, 11, 17), 23: (2, 15)},
    "large-v2": {
        10: (12,), 13: (17,), 16: (11, 12, 13), 17: (15, 16), 18: (4, 11, 19), 19: (11,), 21: (2, 3),
        22: (3, 9, 12), 23: (5, 7, 13), 25: (5,), 26: (1, 12), 27: (15,),
    },
    "large-v3": {
        7: (0,), 10: (17,), 12: (18,), 13: (12,), 16: (1,), 17: (14,), 19: (11,), 21: (4,), 24: (1,),
        25: (6,),
    },
    "large-v3-turbo": {2: (4, 11), 3: (3, 6, 11, 14)},
}  # fmt: skip
# Decoder layers and heads of attention by size: a tuned model of another size may have any name.
_SIZES = {"tiny": (4, 6), "base": (6, 8), "small": (12, 12), "medium": (24, 16), "large": (32, 20)}


def published_heads(name: str, layers: int, heads: int) -> Pairs:
    """(layer, head) of each alignment head of the model that OpenAI calls `name`, such as small.en; none for
    another name, and for another number of decoder layers or heads of attention. "large" is no name: its file
    was that of three models in turn."""
    name = "large-v3-turbo" if name == "turbo" else name
    size = (4, 20) if name == "large-v3-turbo" else _SIZES.get(name.split("-")[0].split(".")[0])
    if name not in _HEADS or size != (layers, heads):
        return ()
    return tuple((layer, head) for layer, numbers in _HEADS[name].items() for head in numbers)
