// Which rows are shown, and in which order.
const several = facts.systems.length > 1;
const last = facts.systems.length - 1;

const ERROR_KINDS = {
  any: ["with and without", () => true],
  wrong: ["any error", (row, s) => errorsOf(row, s) > 0],
  right: ["no error", (row, s) => errorsOf(row, s) === 0],
  sub: ["substitutions", (row, s) => facts.results[s].sub[row] > 0],
  del: ["deletions", (row, s) => facts.results[s].del[row] > 0],
  ins: ["insertions", (row, s) => facts.results[s].ins[row] > 0],
  empty: ["empty hypothesis", (row, s) => facts.words[row] > 0 && hypothesis(row, s) === ""],
  silence: ["words without reference", (row, s) => facts.words[row] === 0 && errorsOf(row, s) > 0],
};
if (several) {
  ERROR_KINDS.differ = ["texts that differ", (row) => facts.systems.some((_, s) => hypothesis(row, s) !== hypothesis(row, 0))];
  ERROR_KINDS.better = ["better than the first", (row, s) => errorsOf(row, s) < errorsOf(row, 0)];
  ERROR_KINDS.worse = ["worse than the first", (row, s) => errorsOf(row, s) > errorsOf(row, 0)];
}

// A key to sort by, smallest first; null: the order in which the page was written.
const ORDERS = {
  first: [several ? "largest difference" : "highest WER", null],
  wer: ["highest WER", (row, s) => -Math.min(rateOf(row, s), 1e9)],
  errors: ["most errors", (row, s) => -errorsOf(row, s)],
  gain: ["largest gain over the first", (row, s) => errorsOf(row, s) - errorsOf(row, 0)],
  loss: ["largest loss against the first", (row, s) => errorsOf(row, 0) - errorsOf(row, s)],
  confidence: ["lowest confidence", (row, s) => lowestConfidence(row, s)],
  long: ["longest", (row) => -facts.seconds[row]],
  short: ["shortest", (row) => facts.seconds[row]],
  noisy: ["lowest SNR", (row) => (facts.snr[row] === null ? Infinity : facts.snr[row])],
};
if (!several) { delete ORDERS.wer; delete ORDERS.gain; delete ORDERS.loss; }
if (!facts.snr) delete ORDERS.noisy;
if (!facts.results.some((result) => result.confidence)) delete ORDERS.confidence;

// pair: [operation, reference word, hypothesis word]. ranges: by column, {low, high, closed}.
const NOTHING = { text: "", language: "", speaker: "", kind: "any", system: last, order: "first", pair: null, ranges: {} };
let state = { ...NOTHING };

function inRanges(row) {
  for (const [field, { low, high, closed }] of Object.entries(state.ranges)) {
    const value = field === "snr" ? facts.snr[row] : facts[field][row];
    if (value === null || value < low || !(value < high || (closed && value <= high))) return false;
  }
  return true;
}

// A speaker by the exact name; where no speaker has it, all whose name contains it. null: all.
function speakersLike(name) {
  if (name === "") return null;
  const exact = facts.speakers.indexOf(name);
  if (exact >= 0) return new Set([exact]);
  const part = name.toLowerCase();
  return new Set(facts.speakers.flatMap((speaker, i) => (speaker.toLowerCase().includes(part) ? [i] : [])));
}

function matching() {
  const wanted = state.text.normalize("NFC").toLowerCase().split(/\s+/).filter(Boolean).join(" ");
  const language = state.language === "" ? -1 : facts.languages.findIndex(([code]) => code === state.language);
  const speakers = speakersLike(state.speaker);
  const test = ERROR_KINDS[state.kind][1];
  const ranged = Object.keys(state.ranges).length > 0;
  const rows = [];
  for (let row = 0; row < ROWS; row++) {
    if (language >= 0 && facts.language[row] !== language) continue;
    if (speakers && !speakers.has(facts.speaker[row])) continue;
    if (!test(row, state.system)) continue;
    if (ranged && !inRanges(row)) continue;
    if (state.pair && !errorPairs(row, state.system).some((p) => state.pair.every((x, i) => x === p[i]))) continue;
    if (wanted !== "" && !searchText(row).includes(wanted)) continue;
    rows.push(row);
  }
  const key = ORDERS[state.order][1];
  if (!key) return rows;
  const keys = new Float64Array(ROWS);
  for (const row of rows) keys[row] = key(row, state.system);
  return rows.sort((a, b) => keys[a] - keys[b] || a - b);
}

// Counts of the rows and their pooled WER, as a sentence.
function countText(rows) {
  const texts = facts.systems.map((name, system) => {
    let words = 0, sub = 0, del = 0, ins = 0;
    const result = facts.results[system];
    for (const row of rows) { words += facts.words[row]; sub += result.sub[row]; del += result.del[row]; ins += result.ins[row]; }
    const errors = sub + del + ins;
    const rate = errors === 0 ? 0 : errors / words;
    return `${several ? name + ": " : ""}WER ${Number.isFinite(rate) ? (100 * rate).toFixed(2) : "∞"} %, ${sub} sub, ${del} del, ${ins} ins`;
  });
  return `${rows.length.toLocaleString("en")} of ${ROWS.toLocaleString("en")} utterances. ${texts.join(" · ")}`;
}
