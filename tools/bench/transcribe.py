"""Measure transcription from audio files to text: against Hugging Face's and NeMo's, and of hours of audio.

    python -m tools.bench.transcribe compare --against hf nemo --threads 2      # same weights, files, process
    python -m tools.bench.transcribe search --against hf nemo --threads 1       # the search; our breakdown
    python -m tools.bench.transcribe long --minutes 10 30 180                   # peak memory and time

The model has random weights: 17 layers of 512 channels, TDT and CTC over 1024 pieces, and a bias of blank
that makes it say --rate tokens a second, as trained models do. NeMo saves it as an archive of its own, which
Maya converts; so all takers compute the same, and how many of their texts are equal is reported. The others
get the files in order of length, which saves them padding, as Maya does by itself. The audio is real speech
of --manifest, written as 16 kHz wav beforehand.

`compare` needs an environment with `transformers` (5.23 or later) or `nemo_toolkit[asr]`, and Maya in it. All
takers take turns in one process, and ratios are of medians; "cpu" is time of the processor.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import soundfile
import torch

from maya.audio.load import load_audio
from maya.convert import from_nemo, to_nemo
from maya.decode.methods import greedy
from maya.decode.recognizer import Recognizer
from maya.encoders import Encoded, FastConformerConfig
from maya.heads.transducer import JointConfig, PredictorConfig
from maya.kernels import onednn
from maya.kernels.bench.peak import forget_the_peak, forked, resident
from maya.models.hybrid import hybrid
from maya.models.speech_model import SpeechModel
from maya.text.tokenizer import Tokenizer, TokenizerConfig
from tools.bench.common import REPO, command_of, finish, in_turns, median_ratio, medians, parser_of
from tools.bench.encoder import hugging_face_names

MANIFEST = REPO.parent / "shared/corpora/indic12/manifest.jsonl"
SAMPLE_RATE = 16000  # Hz, of the recordings written and of the models compared
NEVER = -1e4  # a bias that no score overcomes
MANIFEST_ORDER = "nemo-manifest"  # NeMo with its files as the manifest has them, not by length
Taker = Callable[[list[Path]], list[str]]


def speech(args: argparse.Namespace) -> list[dict[str, Any]]:
    """`--files` utterances of at least `--min-seconds`, evenly over the manifest's, in `--order`."""
    lines = args.manifest.read_text().removesuffix("\n").split("\n")
    eligible = [u for u in map(json.loads, lines) if u["duration"] >= args.min_seconds]
    if len(eligible) < args.files:
        sys.exit(
            f"{args.manifest}: {len(eligible)} utterances of {args.min_seconds} s or more, not {args.files}"
        )
    places = [i * len(eligible) // args.files for i in range(args.files)]
    chosen = [eligible[place] | {"place": place} for place in places]
    return chosen if args.order == "manifest" else sorted(chosen, key=lambda u: u["duration"])


def written(args: argparse.Namespace, utterances: list[dict[str, Any]], folder: Path) -> list[Path]:
    """The utterances as wav files."""
    paths = []
    for number, utterance in enumerate(utterances):
        paths.append(folder / f"{number:03}.wav")
        audio = load_audio(args.manifest.parent / utterance["audio"])
        soundfile.write(paths[-1], audio.numpy(), SAMPLE_RATE)
    return paths


def random_model(args: argparse.Namespace, texts: list[str], audio: list[torch.Tensor]) -> Recognizer:
    """A model that says --rate tokens a second in `audio`; no unknown piece, and no token of no frames."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.train({"en": texts}, TokenizerConfig(vocab_size=args.vocab))
    encoder = FastConformerConfig(
        n_layers=args.layers, d_model=args.width, n_heads=args.heads, subsampling_channels=args.channels
    )
    cfg = hybrid(
        encoder=encoder, vocab_size=tokenizer.vocab_size, joint=JointConfig(hidden=args.predictor),
        predictor=PredictorConfig(hidden=args.predictor, layers=args.predictor_layers),
    )  # fmt: skip
    model = Recognizer(model=SpeechModel(cfg).eval(), tokenizer=tokenizer, device=torch.device("cpu"))
    heads: Any = model.model.heads
    output, head = heads["transducer"].joint.joint_net[2], heads["ctc"].decoder_layers[0]
    lens = torch.tensor([len(a) for a in audio])
    with torch.inference_mode():
        encoded = model.model.encode_audio(torch.nn.utils.rnn.pad_sequence(audio, batch_first=True), lens)
    with torch.no_grad():
        layer: Any
        for layer, method in ((output, "transducer"), (head, "ctc")):
            # Scores far enough apart that rounding decides nothing.
            layer.weight.normal_(std=4 / layer.weight.shape[1] ** 0.5)
            layer.bias[tokenizer.unk_id] = NEVER
            if method == "transducer":
                layer.bias[-len(heads["transducer"].durations)] = NEVER
            low, high = -50.0, 50.0
            for _ in range(14):
                layer.bias[model.model.blank] = (low + high) / 2
                hyps = greedy(model.model, encoded, method)
                many = sum(len(h.tokens) for h in hyps) * SAMPLE_RATE / int(lens.sum()) > args.rate
                low, high = ((low + high) / 2, high) if many else (low, (low + high) / 2)
    return model


def maya_taker(model: Recognizer, args: argparse.Namespace) -> Taker:
    method = "ctc" if args.head == "ctc" else "transducer"
    return lambda paths: [h.text for h in model.transcribe(paths, method=method)]


def nemo_taker(nemo: Any, args: argparse.Namespace) -> Taker:
    """NeMo's own `transcribe`."""
    nemo.change_decoding_strategy(decoder_type="ctc" if args.head == "ctc" else "rnnt")

    def run(paths: list[Path]) -> list[str]:
        files = [str(p) for p in paths]
        hyps = nemo.transcribe(files, batch_size=args.batch, num_workers=0, verbose=False)
        return [h.text for h in hyps]

    return run


def in_manifest_order(taker: Taker, utterances: list[dict[str, Any]]) -> Taker:
    """The taker gets the files in the order of the manifest; the texts are in the order of `utterances`."""
    place = {f"{number:03}.wav": u["place"] for number, u in enumerate(utterances)}

    def run(paths: list[Path]) -> list[str]:
        order = sorted(range(len(paths)), key=lambda i: place[paths[i].name])
        texts = dict(zip(order, taker([paths[i] for i in order]), strict=True))
        return [texts[i] for i in range(len(paths))]

    return run


def hugging_face_taker(model: Recognizer, args: argparse.Namespace) -> Taker:
    """The `automatic-speech-recognition` pipeline over Parakeet with our weights."""
    from transformers import ParakeetFeatureExtractor, pipeline

    peer = hugging_face_model(model.model, args.head)
    asr: Any = pipeline(
        "automatic-speech-recognition",
        model=peer,
        tokenizer=hugging_face_tokenizer(model.tokenizer),
        feature_extractor=ParakeetFeatureExtractor(),
        batch_size=args.batch,
    )

    def run(paths: list[Path]) -> list[str]:
        # Given paths, it would start ffmpeg for each.
        files = [soundfile.read(p, dtype="float32")[0] for p in paths]
        return [out["text"] for out in asr([{"raw": f, "sampling_rate": SAMPLE_RATE} for f in files])]

    return run


def hugging_face_model(ours: SpeechModel, head: str) -> Any:
    """ParakeetForTDT or ParakeetForCTC with our weights."""
    from transformers import (
        ParakeetCTCConfig,
        ParakeetEncoderConfig,
        ParakeetForCTC,
        ParakeetForTDT,
        ParakeetTDTConfig,
    )

    e = ours.cfg.encoder
    assert isinstance(e, FastConformerConfig)
    encoder = ParakeetEncoderConfig(
        hidden_size=e.d_model,
        num_hidden_layers=e.n_layers,
        num_attention_heads=e.n_heads,
        intermediate_size=e.d_model * e.ff_expansion,
        subsampling_conv_channels=e.subsampling_channels,
    )
    shared: dict[str, Any] = {"vocab_size": ours.blank + 1, "pad_token_id": ours.blank}
    shared["encoder_config"] = encoder
    heads: Any = ours.heads
    state = {f"encoder.{k}": v for k, v in hugging_face_names(ours.encoder.state_dict()).items()}
    peer: Any
    if head == "ctc":
        peer = ParakeetForCTC(ParakeetCTCConfig(**shared))
        state |= renamed(heads["ctc"].state_dict(), {"decoder_layers.0.": "ctc_head."})
    else:
        own = heads["transducer"].cfg.predictor
        cfg = ParakeetTDTConfig(
            **shared, blank_token_id=ours.blank, durations=list(heads["transducer"].durations),
            decoder_hidden_size=own.hidden, num_decoder_layers=own.layers,
        )  # fmt: skip
        peer = ParakeetForTDT(cfg)
        peer.generation_config.decoder_start_token_id = ours.blank
        peer.generation_config.eos_token_id = None
        # It takes a step's token among all outputs, durations too, unless told not to.
        peer.generation_config.suppress_tokens = [ours.blank + 1 + i for i in range(len(cfg.durations))]
        names = {"prediction.embed.": "decoder.embedding.", "prediction.dec_rnn.lstm.": "decoder.lstm."}
        state |= renamed(heads["transducer"].decoder.state_dict(), names)
        names = {
            "enc.": "encoder_projector.",
            "pred.": "decoder.decoder_projector.",
            "joint_net.2.": "joint.head.",
        }
        state |= renamed(heads["transducer"].joint.state_dict(), names)
    peer.load_state_dict(state, strict=True)
    return peer.eval()


def renamed(state: dict[str, torch.Tensor], names: dict[str, str]) -> dict[str, torch.Tensor]:
    """Keys that begin with one of `names` under what it stands for."""
    renamed_state = {}
    for key, value in state.items():
        begin = next(name for name in names if key.startswith(name))
        renamed_state[names[begin] + key.removeprefix(begin)] = value
    return renamed_state


def hugging_face_tokenizer(ours: Tokenizer) -> Any:
    """Pieces to text alone, with blank as padding."""
    from tokenizers import Tokenizer as Pieces
    from tokenizers import decoders, models
    from transformers.models.parakeet.tokenization_parakeet import ParakeetTokenizer

    vocabulary = {piece: i for i, piece in enumerate(ours.pieces(range(ours.vocab_size)))}
    pieces = Pieces(models.WordLevel(vocabulary | {"<blank>": ours.vocab_size}, unk_token="<unk>"))
    pieces.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return ParakeetTokenizer(tokenizer_object=pieces, pad_token="<blank>", unk_token="<unk>")


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Medians of the time from files to texts for every taker, in turns."""
    utterances = speech(args)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = written(args, utterances, folder)
        audio = [load_audio(p) for p in paths[:: max(1, len(paths) // 8)]]
        lines = args.manifest.read_text().removesuffix("\n").split("\n")
        model = random_model(args, [json.loads(line)["text"] for line in lines], audio)
        takers: dict[str, Taker] = {}
        if {"nemo", MANIFEST_ORDER} & {*args.against}:
            from nemo.collections.asr.models import ASRModel

            to_nemo(model, folder / "maya.nemo")
            nemo = ASRModel.restore_from(str(folder / "maya.nemo"), map_location="cpu").eval()
            nemo.save_to(str(folder / "nemo.nemo"))
            model = from_nemo(folder / "nemo.nemo")
            takers["nemo"] = nemo_taker(nemo, args)
            takers[MANIFEST_ORDER] = in_manifest_order(takers["nemo"], utterances)
        if "hf" in args.against:
            takers["hf"] = hugging_face_taker(model, args)
        compared = {name: takers[name] for name in args.against}
        return measured({"maya": maya_taker(model, args)} | compared, paths, utterances, args)


def search(args: argparse.Namespace) -> dict[str, Any]:
    """Processor time of each taker's search on batches of `--batch` files, and of all our steps."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        utterances = speech(args)
        paths = written(args, utterances, folder)
        lines = args.manifest.read_text().removesuffix("\n").split("\n")
        audio = [load_audio(p) for p in paths]
        model = random_model(
            args, [json.loads(line)["text"] for line in lines], audio[:: max(1, len(audio) // 8)]
        )
        by_length = list(encoded_batches(model, audio, args.batch))
        searches = {"maya": partial(maya_search, model, args.head)}
        manifest = sorted(range(len(audio)), key=lambda i: utterances[i]["place"])
        if {"nemo", MANIFEST_ORDER} & {*args.against}:
            from nemo.collections.asr.models import ASRModel

            to_nemo(model, folder / "maya.nemo")
            nemo = ASRModel.restore_from(str(folder / "maya.nemo"), map_location="cpu").eval()
            nemo.change_decoding_strategy(decoder_type="ctc" if args.head == "ctc" else "rnnt")
            searches |= dict.fromkeys(("nemo", MANIFEST_ORDER), partial(nemo_search, nemo, args.head))
        if "hf" in args.against:
            peer = hugging_face_model(model.model, args.head)
            searches["hf"] = partial(hugging_face_search, peer, args.head)
        searches = {name: searches[name] for name in ("maya", *args.against)}
        batches = dict.fromkeys(searches, by_length)
        if MANIFEST_ORDER in searches:
            batches[MANIFEST_ORDER] = list(encoded_batches(model, [audio[i] for i in manifest], args.batch))
        return searched(searches, batches, manifest, args) | breakdown(model, paths, args)


def encoded_batches(model: Recognizer, audio: list[torch.Tensor], size: int) -> Iterator[Encoded]:
    for i in range(0, len(audio), size):
        rows = audio[i : i + size]
        lens = torch.tensor([len(a) for a in rows])
        with torch.inference_mode():
            yield model.model.encode_audio(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lens)


def maya_search(model: Recognizer, head: str, encoded: Encoded) -> list[list[int]]:
    with torch.inference_mode():
        hyps = greedy(model.model, encoded, "ctc" if head == "ctc" else "transducer")
    return [h.tokens for h in hyps]


def nemo_search(nemo: Any, head: str, encoded: Encoded) -> list[list[int]]:
    """NeMo's search with its defaults, `greedy_batch`."""
    with torch.inference_mode():
        if head == "ctc":
            logits = nemo.ctc_decoder(encoder_output=encoded.frames.mT)
            hyps = nemo.ctc_decoding.ctc_decoder_predictions_tensor(
                logits, decoder_lengths=encoded.lens, return_hypotheses=True
            )
        else:
            hyps = nemo.decoding.rnnt_decoder_predictions_tensor(
                encoder_output=encoded.frames.mT, encoded_lengths=encoded.lens, return_hypotheses=True
            )
    return [[int(token) for token in h.y_sequence] for h in hyps]


def hugging_face_search(peer: Any, head: str, encoded: Encoded) -> list[list[int]]:
    """`generate` of Parakeet with the encoder's output given."""
    from transformers.models.parakeet.modeling_parakeet import ParakeetEncoderModelOutput

    mask = torch.arange(encoded.frames.shape[1]) < encoded.lens[:, None]
    out = ParakeetEncoderModelOutput(last_hidden_state=encoded.frames, attention_mask=mask.long())
    features = encoded.frames.new_zeros(len(mask), mask.shape[1] * 8, 80)
    with patch.object(peer.encoder, "forward", lambda *_, **__: out), torch.inference_mode():
        sequences = peer.generate(input_features=features, attention_mask=features[..., 0].long() + 1)
    blank = peer.config.pad_token_id
    return [[t for t in row if t != blank] for row in getattr(sequences, "sequences", sequences).tolist()]


def searched(
    searches: Mapping[str, Callable[[Encoded], list[list[int]]]],
    batches: Mapping[str, list[Encoded]],
    manifest: list[int],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Processor seconds of each search on its batches, in turns, and how many rows of tokens equal ours.
    manifest: the number of each row in the order of the manifest."""
    tokens: dict[str, list[list[int]]] = {}

    def run(name: str) -> None:
        tokens[name] = [row for batch in batches[name] for row in searches[name](batch)]
        if name == MANIFEST_ORDER:
            tokens[name] = [row for _, row in sorted(zip(manifest, tokens[name], strict=True))]

    seconds = in_turns({name: partial(run, name) for name in searches}, args.rounds, time.process_time)
    result: dict[str, Any] = {"search, processor seconds": medians(seconds)}
    for name in args.against:
        equal = [a == b for a, b in zip(tokens[name], tokens["maya"], strict=True)]
        result[f"{name} over maya"] = median_ratio(seconds[name], seconds["maya"])
        result[f"{name} equal tokens"] = f"{sum(equal)} of {len(equal)}"
    return result


def breakdown(model: Recognizer, paths: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    """Processor seconds of our steps; the search holds its words and confidences."""
    spent: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        marks = {"read": 0.0, "features": 0.0, "encoder": 0.0, "search": 0.0}
        for i in range(0, len(paths), args.batch):
            times = [time.process_time()]
            rows = [load_audio(p) for p in paths[i : i + args.batch]]
            times.append(time.process_time())
            lens, audio = torch.tensor([len(a) for a in rows]), torch.nn.utils.rnn.pad_sequence(rows, True)
            with torch.inference_mode():
                feats = model.model.features(audio, lens)
                times.append(time.process_time())
                with onednn.linear_layers(audio):
                    encoded = model.model.encoder(*feats)
                times.append(time.process_time())
                greedy(model.model, encoded, "ctc" if args.head == "ctc" else "transducer")
            times.append(time.process_time())
            for name, begin, end in zip(marks, times, times[1:], strict=False):
                marks[name] += end - begin
        for name, value in marks.items():
            spent.setdefault(name, []).append(value)
    return {"maya, processor seconds": medians(spent)}


def measured(
    takers: dict[str, Taker], paths: list[Path], utterances: list[dict[str, Any]], args: argparse.Namespace
) -> dict[str, Any]:
    texts, times = {}, {name: {"clock": [], "cpu": []} for name in takers}  # type: ignore[var-annotated]
    for number in range(args.rounds + 1):  # the first warms up
        chosen = paths if number or not args.warm_up else paths[:: -(-len(paths) // args.warm_up)]
        for name, run in takers.items():
            began, cpu = time.perf_counter(), time.process_time()
            texts[name] = [" ".join(text.split()) for text in run(chosen)]
            print(f"{name}: {time.process_time() - cpu:.2f} s of {len(chosen)} files", flush=True)
            if number:
                times[name]["clock"].append(time.perf_counter() - began)
                times[name]["cpu"].append(time.process_time() - cpu)
        shown = ", ".join(f"{name} {t['clock'][-1]:.2f}" for name, t in times.items() if t["clock"])
        print(f"round {number}: {shown or 'warm-up'}", flush=True)
    seconds = sum(u["duration"] for u in utterances)
    medians = {n: {k: statistics.median(v) for k, v in kinds.items()} for n, kinds in times.items()}
    result: dict[str, Any] = {
        "audio seconds": seconds,
        "characters a second": sum(map(len, texts["maya"])) / seconds,
        "seconds": medians,
    }
    for name in args.against:
        equal = [a == b for a, b in zip(texts[name], texts["maya"], strict=True)]
        result[f"{name} over maya"] = {k: medians[name][k] / medians["maya"][k] for k in ("clock", "cpu")}
        result[f"{name} equal texts"] = f"{sum(equal)} of {len(equal)}"
        # Hugging Face's CTC pipeline also decodes the padding of its batches, behind the text.
        begun = [a.startswith(b) for a, b in zip(texts[name], texts["maya"], strict=True)]
        result[f"{name} texts that begin with ours"] = f"{sum(begun)} of {len(begun)}"
    return result


def long(args: argparse.Namespace) -> dict[str, Any]:
    """Peak memory and time of files of each length, each transcribed in a fork of this process."""
    rows = []
    for minutes in args.minutes:
        with tempfile.TemporaryDirectory() as folder:
            row, status = forked(partial(long_one, args, minutes, Path(folder)))
        if row is None:
            sys.exit(f"{minutes:g} minutes: the measuring process ended with status {status}")
        rows.append(row)
        print(row, flush=True)
    return {"rows": rows, "unit": "MB"}


def long_one(args: argparse.Namespace, minutes: float, folder: Path) -> dict[str, Any]:
    utterances = speech(args)
    audio = [load_audio(args.manifest.parent / u["audio"]) for u in utterances]
    model = random_model(args, [u["text"] for u in utterances] * 20, audio[:8])
    fast_conformer: Any = model.model.encoder
    fast_conformer.context = tuple(args.context)
    samples, file = int(minutes * 60 * SAMPLE_RATE), folder / "long.wav"
    with soundfile.SoundFile(file, "w", samplerate=SAMPLE_RATE, channels=1, format="RF64") as out:
        while (remaining := samples - out.tell()) > 0:
            out.write(audio[out.tell() % len(audio)][:remaining].numpy())
    method = "ctc" if args.head == "ctc" else "transducer"
    model.transcribe([audio[0], audio[-1]], method=method)  # libraries, thread pools
    forget_the_peak()
    before, began = resident("VmRSS"), time.perf_counter()
    (hyp,) = model.transcribe([file], method=method)
    frames = samples // 160
    sizes = {
        "audio": 4 * samples,
        "features": 4 * frames * 80,
        "encoder output": 4 * frames // 8 * args.width,
        "above start": resident("VmHWM") - before,
    }
    seconds = {"minutes": minutes, "seconds": time.perf_counter() - began, "tokens": len(hyp.tokens)}
    return seconds | {name: size / 1e6 for name, size in sizes.items()}


MEASUREMENTS = {"compare": compare, "search": search, "long": long}


def main(argv: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("what", choices=MEASUREMENTS)
    parser.add_argument("--against", nargs="+", choices=("hf", "nemo", MANIFEST_ORDER), default=["hf"])
    parser.add_argument("--head", choices=("tdt", "ctc"), default="tdt")
    parser.add_argument("--manifest", type=Path, default=MANIFEST, help="lines of audio, text and duration")
    parser.add_argument("--files", type=int, default=32)
    parser.add_argument("--min-seconds", type=float, default=4.0)
    parser.add_argument("--rate", type=float, default=4.0, help="tokens a second")
    parser.add_argument("--batch", type=int, default=16, help="utterances in a batch of the others")
    parser.add_argument("--layers", type=int, default=17)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--heads", type=int, default=8, help="of attention")
    parser.add_argument("--channels", type=int, default=256, help="of subsampling")
    parser.add_argument("--predictor", type=int, default=640, help="width of predictor and joint")
    parser.add_argument("--predictor-layers", type=int, default=2)
    parser.add_argument("--order", choices=("length", "manifest"), default="length", help="of the files")
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--minutes", type=float, nargs="+", default=[10.0, 30.0, 180.0])
    parser.add_argument("--context", type=int, nargs=2, default=[128, 128], help="of long audio")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=0, help="files of the warm-up; 0: all")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=None, help="a .json to add the result to")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    result = MEASUREMENTS[args.what](args)
    finish(result, f"transcribe {args.what}", command_of("transcribe", argv), args.out)


if __name__ == "__main__":
    main()
