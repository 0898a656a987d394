// The transcript as a file: SubRip, WebVTT, or plain text with a line for each segment.
const COLUMNS = 42; // characters of a line; a cue has two
const SECONDS = 7, SHORTEST = 1, PAUSE = 0.8; // of a cue at most and at least; between words, which ends a cue

// {text, start, end} in order of time, none over another.
export function cues(segments) {
  const made = [];
  for (const { text, start, end, words } of segments) {
    if (!words.length || words.some((word) => word.start === null)) {
      made.push({ text, start, end });
      continue;
    }
    let first = words[0], last = null;
    for (const word of words) {
      const full = last && (word.to - first.from > 2 * COLUMNS || word.end - first.start > SECONDS || word.start - last.end > PAUSE);
      if (full) {
        made.push({ text: text.slice(first.from, word.from).trim(), start: first.start, end: last.end });
        first = word;
      }
      last = word;
    }
    made.push({ text: text.slice(first.from).trim(), start: first.start, end: last.end });
  }
  made.forEach((cue, i) => {
    cue.start = Math.max(cue.start, made[i - 1]?.end ?? 0);
    cue.end = Math.max(cue.end, cue.start, Math.min(cue.start + SHORTEST, made[i + 1]?.start ?? Infinity));
  });
  return made;
}

function stamp(seconds, separator) {
  const milliseconds = Math.round(seconds * 1000);
  const part = (unit, size, digits = 2) => String(Math.floor(milliseconds / unit) % size).padStart(digits, "0");
  return `${part(3_600_000, 1e6)}:${part(60_000, 60)}:${part(1000, 60)}${separator}${part(1, 1000, 3)}`;
}

// Two lines of about one length where one is too narrow.
function lines(text) {
  if (Array.from(text).length <= COLUMNS) return text;
  const middle = text.length / 2;
  const spaces = Array.from(text.matchAll(/ /g), (match) => match.index);
  if (!spaces.length) return text;
  const nearest = spaces.reduce((a, b) => (Math.abs(b - middle) < Math.abs(a - middle) ? b : a));
  return `${text.slice(0, nearest)}\n${text.slice(nearest + 1)}`;
}

const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const block = (cue, separator, text) => `${stamp(cue.start, separator)} --> ${stamp(cue.end, separator)}\n${text}\n`;

export const FORMATS = {
  srt: (segments) => cues(segments).map((cue, i) => `${i + 1}\n${block(cue, ",", lines(cue.text))}`).join("\n"),
  vtt: (segments) => ["WEBVTT\n", ...cues(segments).map((cue) => block(cue, ".", escaped(lines(cue.text))))].join("\n"),
  txt: (segments) => segments.map(({ text }) => `${text}\n`).join(""),
};
