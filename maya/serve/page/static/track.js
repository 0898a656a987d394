// Level, speech and final segments over time: the last seconds while sound comes, all of it afterwards.
const PIXELS_A_SECOND = 25;
const LEVEL = [0, 34], SPEECH = [38, 46], FINAL = [49, 57], LABELS = 72; // heights in pixels
const STEPS = [1, 2, 5, 10, 30, 60, 300, 600, 1800, 3600]; // seconds between two labels

// Decibels below full scale of 16-bit samples.
export function decibels(samples) {
  let power = 0;
  for (const sample of samples) power += sample * sample;
  return 10 * Math.log10(power / samples.length / 32768 ** 2 + 1e-6);
}

export class Track {
  constructor(canvas) {
    this.canvas = canvas;
    this.clear();
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  clear() {
    Object.assign(this, { seconds: 0, running: false, levels: [], speech: [], finals: [] });
    this.draw();
  }

  addLevel(level, seconds) { this.levels.push([this.seconds, seconds, level]); this.seconds += seconds; this.draw(); }
  startSpeech(start) { this.speech.push([start, null]); this.draw(); }
  endSpeech(end) { const last = this.speech.at(-1); if (last && last[1] === null) last[1] = end; this.draw(); }
  addFinal(start, end) { this.finals.push([start, end]); this.draw(); }
  run(running) { this.running = running; if (!running) this.endSpeech(this.seconds); this.describe(); this.draw(); }

  describe() {
    const spoken = this.speech.reduce((sum, [start, end]) => sum + (end ?? this.seconds) - start, 0);
    this.canvas.setAttribute("aria-label", `${this.seconds.toFixed(1)} s of sound, ${spoken.toFixed(1)} s of it speech, ` +
      `${this.finals.length} segments of final text`);
  }

  draw() {
    this.waiting ??= requestAnimationFrame(() => { this.waiting = undefined; this.paint(); });
  }

  paint() {
    const { canvas } = this, ratio = devicePixelRatio, width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const pen = canvas.getContext("2d"), style = getComputedStyle(canvas);
    pen.scale(ratio, ratio);
    const shown = width / PIXELS_A_SECOND;
    const from = this.running ? Math.max(0, this.seconds - shown) : 0;
    const scale = this.running ? PIXELS_A_SECOND : width / Math.max(shown, this.seconds);
    const bar = (start, end, top, bottom) => pen.fillRect((start - from) * scale, top, Math.max(1, (end - start) * scale), bottom - top);
    const visible = ([, end]) => (end ?? this.seconds) > from;
    pen.fillStyle = style.getPropertyValue("--line");
    for (const [top, bottom] of [SPEECH, FINAL]) pen.fillRect(0, (top + bottom) / 2, width, 1);
    pen.fillStyle = style.getPropertyValue("--level");
    let right = -1, highest = 0; // one column of pixels takes the highest level in it
    for (let i = this.levels.findIndex(([start, seconds]) => start + seconds > from); i >= 0 && i < this.levels.length; i++) {
      const [start, seconds, level] = this.levels[i], share = Math.max(0.02, 1 + level / 60);
      const column = Math.floor((start - from) * scale);
      highest = column === right ? Math.max(highest, share) : share;
      right = column;
      bar(start, start + seconds, LEVEL[1] - highest * (LEVEL[1] - LEVEL[0]), LEVEL[1]);
    }
    pen.fillStyle = style.getPropertyValue("--speech");
    for (const [start, end] of this.speech.filter(visible)) bar(start, end ?? this.seconds, ...SPEECH);
    pen.fillStyle = style.getPropertyValue("--final");
    for (const [start, end] of this.finals.filter(visible)) bar(start, end - 1 / scale, ...FINAL);
    pen.fillStyle = style.getPropertyValue("--quiet");
    pen.font = "11px system-ui, sans-serif";
    const step = STEPS.find((seconds) => seconds * scale >= 60) ?? STEPS.at(-1);
    for (let at = Math.ceil(from / step) * step; (at - from) * scale < width - 30; at += step) {
      pen.fillRect((at - from) * scale, FINAL[1] + 3, 1, 4);
      pen.fillText(`${at} s`, (at - from) * scale + 3, LABELS);
    }
  }
}
