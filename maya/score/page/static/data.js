// The utterances as columns; page_facts in facts.py writes them. A row is a place in each column.
//   systems: names · languages: [code, name] · speakers: names · id, seconds, snr (or null), ref: of each row
//   language, speaker: places in those lists, -1 without a speaker · words, characters: of the reference
//   audio: addresses or null · clips: rows whose audio lies in the element "clips"
//   results, by system: hyp (0: equal to ref), ops (a letter a pair of words; 0: all equal), sub, del, ins, cer,
//   confidence (a character a word, or null)
const facts = JSON.parse(document.getElementById("data").textContent);
const ROWS = facts.id.length;
const clipped = new Set(facts.clips);
const LEVELS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

const wordsOf = (text) => (text === "" ? [] : text.split(" "));
const hypothesis = (row, system) => facts.results[system].hyp[row] || (facts.results[system].ops[row] ? "" : facts.ref[row]);
const errorsOf = (row, system) => {
  const result = facts.results[system];
  return result.sub[row] + result.del[row] + result.ins[row];
};
const rateOf = (row, system) => {
  const errors = errorsOf(row, system);
  return errors === 0 ? 0 : errors / facts.words[row];
};

// Pairs [operation, reference word, hypothesis word, place of the hypothesis word] of one system.
function pairsOf(row, system) {
  const ref = wordsOf(facts.ref[row]);
  const hyp = wordsOf(hypothesis(row, system));
  const ops = facts.results[system].ops[row] || "=".repeat(ref.length);
  const pairs = [];
  let r = 0, h = 0;
  for (const op of ops) {
    pairs.push([op, op === "i" ? "" : ref[r++], op === "d" ? "" : hyp[h], op === "d" ? -1 : h++]);
  }
  return pairs;
}

// The pairs that differ, computed once for each row and system.
const wrongPairs = facts.systems.map(() => new Array(ROWS));
function errorPairs(row, system) {
  const cache = wrongPairs[system];
  cache[row] ??= facts.results[system].ops[row] ? pairsOf(row, system).filter((pair) => pair[0] !== "=") : [];
  return cache[row];
}

// The confidence of a hypothesis word in [0, 1]; null where it is unknown.
function confidenceOf(row, system, place) {
  const levels = facts.results[system].confidence;
  const level = levels && levels[row] ? LEVELS.indexOf(levels[row][place]) : -1;
  return level < 0 ? null : level / (LEVELS.length - 1);
}

function lowestConfidence(row, system) {
  const levels = facts.results[system].confidence;
  let lowest = 2;
  for (const level of (levels && levels[row]) || "") {
    const place = LEVELS.indexOf(level);
    if (place >= 0) lowest = Math.min(lowest, place / (LEVELS.length - 1));
  }
  return lowest;
}

// What a search looks through: id, reference and hypotheses, in lower case.
const searchable = new Array(ROWS);
function searchText(row) {
  searchable[row] ??= [facts.id[row], facts.ref[row], ...facts.systems.map((_, s) => hypothesis(row, s))].join("\n").toLowerCase();
  return searchable[row];
}
