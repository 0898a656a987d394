"""The Kaldi filter bank on a batch, beside torchaudio's and kaldi_native_fbank's on one utterance at a time:
`python -m tools.bench.fbank [--utterances 16] [--seconds 10] [--threads 1] [--repeats 15] [--device cpu]`.

The contenders take turns in one process. On the CPU their processor time is taken, which other programs
disturb less than the clock's. Quoted are medians, and the median of the ratios of each round.
"""

import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from maya.errors import MayaError
from maya.features import Fbank, FbankConfig
from maya.kernels.bench.peers import torchaudio
from tools.bench.common import clock_of, in_turns, median_ratio, parser_of

Contender = Callable[[list[Tensor]], list[Tensor]]


def maya_batch(device: torch.device) -> Contender:
    fbank = Fbank(FbankConfig()).eval().to(device)

    def run(waveforms: list[Tensor]) -> list[Tensor]:
        lens = torch.tensor([len(x) for x in waveforms])
        audio = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
        feats, feat_lens = fbank(audio, lens.to(device))
        if device.type == "cuda":
            torch.cuda.synchronize()
        return [feats[i, :n] for i, n in enumerate(feat_lens.tolist())]

    return run


def torchaudio_each() -> Contender | None:
    kaldi, absent = torchaudio("compliance.kaldi")
    if absent:
        print(f"torchaudio: left out, {absent}")
        return None

    def run(waveforms: list[Tensor]) -> list[Tensor]:
        return [kaldi.fbank(x[None], num_mel_bins=80, high_freq=-400.0, snip_edges=False) for x in waveforms]

    return run


def native_each() -> Contender:
    try:
        import kaldi_native_fbank as native
    except ImportError as e:
        raise MayaError("kaldi_native_fbank is not installed; pip install kaldi-native-fbank") from e
    options = native.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = 80
    options.mel_opts.high_freq = -400

    def one(waveform: Tensor) -> Tensor:
        computer = native.OnlineFbank(options)
        computer.accept_waveform(16000, waveform.numpy())
        computer.input_finished()
        frames = computer.num_frames_ready
        out = torch.empty(frames, 80)
        for i in range(frames):
            out[i] = torch.from_numpy(computer.get_frame(i))
        return out

    return lambda waveforms: [one(x) for x in waveforms]


def main(argv: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--utterances", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0, help="of the longest; the shortest has half")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu", help="of this project's; the others run on the CPU")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    g = torch.Generator().manual_seed(0)
    longest = int(args.seconds * 16000)
    lens = torch.linspace(longest / 2, longest, args.utterances).long().tolist()
    waveforms = [torch.randn(n, generator=g) / 10 for n in lens]
    contenders = {"maya": maya_batch(device)}
    if peer := torchaudio_each():
        contenders["torchaudio"] = peer
    contenders["kaldi_native_fbank"] = native_each()
    own = contenders["maya"]([x.to(device) for x in waveforms])
    for name in list(contenders)[1:]:
        apart = torch.cat(
            [(a.cpu() - b).abs().flatten() for a, b in zip(own, contenders[name](waveforms), strict=True)]
        )
        print(f"{name}: differs by {apart.mean():.1e} on average, {apart.max():.1e} at most")
    placed = maya_batch(device)
    on_device = [x.to(device) for x in waveforms]
    contenders["maya"] = lambda _: placed(on_device)
    runs = {name: partial(run, waveforms) for name, run in contenders.items()}
    seconds = in_turns(runs, args.repeats, clock_of(device))
    audio = sum(lens) / 16000
    print(
        f"{args.utterances} utterances, {audio:.0f} s, {args.threads} thread(s), {device}, "
        f"torch {torch.__version__}"
    )
    for name, times in seconds.items():
        ratio, middle = median_ratio(times, seconds["maya"]), statistics.median(times)
        print(
            f"{name:<20} {1e3 * middle:8.1f} ms  {audio / middle:8.0f}x real time  {ratio:6.2f}x maya's time"
        )


if __name__ == "__main__":
    main()
