"""The options --lm and --hotwords of commands without an experiment."""

import argparse
from typing import Any

from maya.decode.lm.fusion_config import FusionConfig
from maya.ranges import Range
from maya.recipes.arguments import number


def add_fusion(p: argparse.ArgumentParser) -> None:
    """The options; see `fusion_config`."""
    weight, defaults = number(float, Range(min=0)), FusionConfig()
    text = "an n-gram to decode with: an ARPA file, a binary of KenLM, or a folder that `maya lm` wrote"
    p.add_argument("--lm", metavar="PATH", help=text)
    text = f"weight of the n-gram; default {defaults.lm_weight:g}"
    p.add_argument("--lm-weight", type=weight, default=defaults.lm_weight, metavar="X", help=text)
    text = "a file of words and phrases to prefer, one a line; `name :2.5` gives one its own weight"
    p.add_argument("--hotwords", metavar="FILE", help=text)
    text = f"weight of the hot words, in nats a token; default {defaults.hotwords_weight:g}"
    p.add_argument("--hotword-weight", type=weight, default=defaults.hotwords_weight, metavar="X", help=text)


def fusion_config(args: argparse.Namespace) -> FusionConfig:
    """The configuration that the options of `add_fusion` give."""
    values: dict[str, Any] = {"lm_weight": args.lm_weight, "hotwords_weight": args.hotword_weight}
    return FusionConfig(lm=args.lm or "", hotwords=args.hotwords or "", **values)
