// How long after the sound its text is on the page, for sound that comes as it is spoken.
const DRIFT = 0.05; // milliseconds that a sound card may fall behind in one message

const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];

export class Latency {
  constructor() {
    this.zero = Infinity; // the time of the first sample on the page's clock: the message that waited least shows it
    this.spoke = this.stopped = null; // seconds
    this.firsts = [];
    this.finals = [];
  }

  // The sound up to `seconds` has just been recorded.
  recorded(seconds) { this.zero = Math.min(this.zero + DRIFT, performance.now() - 1000 * seconds); }
  speechStarted(seconds) { this.spoke = seconds; this.stopped = null; }
  speechEnded(seconds) { this.stopped = seconds; }
  since(seconds) { return performance.now() - this.zero - 1000 * seconds; }

  // The first words after speech began.
  partial() {
    if (this.spoke !== null) this.firsts.push(this.since(this.spoke));
    this.spoke = null;
  }

  // Only a pause ends a segment because speech has ended.
  final({ reason }) {
    if (reason === "pause" && this.stopped !== null) this.finals.push(this.since(this.stopped));
  }

  text() {
    const of = (values) => (values.length > 1 ? ` (median of ${values.length}: ${Math.round(median(values))} ms)` : "");
    const times = (values) => `${Math.round(values.at(-1))} ms${of(values)}`;
    const parts = [];
    if (this.finals.length) parts.push(`Final text ${times(this.finals)} after the end of speech.`);
    if (this.firsts.length) parts.push(`First words ${times(this.firsts)} after its start.`);
    return parts.join(" ");
  }
}
