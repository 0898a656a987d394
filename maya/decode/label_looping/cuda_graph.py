"""The masked loop as CUDA graphs: a graph holds STEPS steps, and the host never waits for a result.

The steps stand under a condition that the device evaluates (an IF node, torch 2.13 and CUDA 12.4 or later): a
replay after the last label costs a few microseconds. So the host may replay the graph as often as the longest
search could need. It stops earlier if a copy of the condition that has arrived says so.
"""

import torch

from maya.decode.label_looping.masked import MaskedSearch

STEPS = 16  # of a graph
AHEAD = 4  # replays whose condition the host may not have seen yet, where the graph has no condition itself


class GraphedSteps:
    """STEPS steps of a search on a CUDA device, captured once."""

    def __init__(self, search: MaskedSearch) -> None:
        self.search = search
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries get their workspaces before the capture
            for _ in range(3):
                search.step()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        self.conditional = hasattr(self.graph, "begin_capture_to_if_node")
        with torch.cuda.graph(self.graph):
            if self.conditional:
                self.graph.begin_capture_to_if_node(search.active)
            for _ in range(STEPS):
                search.step()
            if self.conditional:
                self.graph.end_capture_to_conditional_node()
        self.flags = torch.ones(AHEAD, dtype=torch.bool, pin_memory=True)
        self.events = [torch.cuda.Event() for _ in range(AHEAD)]

    def run(self, search: MaskedSearch) -> None:
        """Replay until no row is active. `search` is the one that was captured."""
        assert search is self.search
        for replay in range(-(-search.most_steps // STEPS)):
            slot, event = replay % AHEAD, self.events[replay % AHEAD]
            if replay >= AHEAD:
                if not self.conditional:
                    event.synchronize()  # the device has AHEAD - 1 replays to do meanwhile
                if event.query() and not self.flags[slot]:
                    return
            self.graph.replay()
            self.flags[slot : slot + 1].copy_(search.active.view(1), non_blocking=True)
            event.record()
